"""Download of a file from a server with simulated faults: a wrong file must never get the final name."""

import hashlib
import shutil
from pathlib import Path

import pytest
from download_server import CONTENT, SHA256, Server, known

from magic123.records.errors import InputError
from magic123.settings.registry import Download
from magic123.weights import download as download_module
from magic123.weights.download import check_free_space, download, wrong_size


def test_a_file_is_fetched_and_verified(server: Server, tmp_path: Path, lines: list[str]) -> None:
    server.files["/a/m.bin"] = CONTENT
    digest, url = download([f"{server.url}/a/m.bin"], tmp_path / "deep" / "m.bin", known(), lines.append)
    assert (digest, url) == (SHA256, f"{server.url}/a/m.bin")
    assert (tmp_path / "deep" / "m.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["m.bin"]  # no .part, no note
    assert any("[####################] 3 MB of 3 MB" in line for line in lines)


def test_a_wrong_hash_is_refused_by_name(server: Server, tmp_path: Path, lines: list[str]) -> None:
    changed = bytearray(CONTENT)
    changed[1234567] ^= 1
    server.files["/a/m.bin"] = bytes(changed)
    with pytest.raises(InputError) as error:
        download([f"{server.url}/a/m.bin"], tmp_path / "m.bin", known(), lines.append)
    for part in ("m.bin", server.url, SHA256, hashlib.sha256(changed).hexdigest(), "refused"):
        assert part in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("expected", [{"sha256": None, "sha256_prefix": "0" * 8}, {"sha256": None, "md5": "0" * 32}])
def test_a_wrong_prefix_or_md5_is_refused(server: Server, tmp_path: Path, lines: list[str], expected: dict) -> None:
    server.files["/m.bin"] = CONTENT
    with pytest.raises(InputError, match="refused"):
        download([f"{server.url}/m.bin"], tmp_path / "m.bin", known(**expected), lines.append)
    assert not (tmp_path / "m.bin").exists()


def test_another_size_is_refused_before_it_is_read(server: Server, tmp_path: Path, lines: list[str]) -> None:
    server.files["/m.bin"] = CONTENT + b"more"
    with pytest.raises(InputError, match=f"{len(CONTENT) + 4} bytes where {len(CONTENT)} are registered"):
        download([f"{server.url}/m.bin"], tmp_path / "m.bin", known(), lines.append)
    assert not list(tmp_path.iterdir())


def test_the_second_source_when_the_first_has_it_not(server: Server, tmp_path: Path, lines: list[str]) -> None:
    server.files["/second/m.bin"] = CONTENT
    urls = [f"{server.url}/first/m.bin", f"{server.url}/second/m.bin"]
    assert download(urls, tmp_path / "m.bin", known(), lines.append)[1] == urls[1]
    assert [path for path, _, _ in server.seen] == ["/first/m.bin", "/second/m.bin"]
    assert any("/first/m.bin" in line and "404" in line for line in lines)


def test_the_second_source_when_the_first_has_another_file(server: Server, tmp_path: Path, lines: list[str]) -> None:
    server.files |= {"/first/m.bin": bytes(len(CONTENT)), "/second/m.bin": CONTENT}
    download([f"{server.url}/first/m.bin", f"{server.url}/second/m.bin"], tmp_path / "m.bin", known(), lines.append)
    assert (tmp_path / "m.bin").read_bytes() == CONTENT
    assert any("/first/m.bin" in line and "refused" in line for line in lines)


@pytest.mark.parametrize(
    ("suffix", "wrong"),
    [
        (".bin", b"<!DOCTYPE html>" + bytes(3_000_000)),
        (".ckpt", bytes(3_000_000)),
        (".safetensors", bytes(8) + b"<html>" + bytes(3_000_000)),
        (".pt", b"PK\x03\x04 and nothing"),
    ],
)
def test_a_page_or_a_short_file_is_refused_without_a_hash(
    server: Server, tmp_path: Path, lines: list[str], suffix: str, wrong: bytes
) -> None:
    """Where the registry has gigabytes alone, whatever came first would be recorded and enforced."""
    server.files[f"/m{suffix}"] = wrong
    reason = "where about 3 MB are registered" if len(wrong) < 1000 else "was refused"
    with pytest.raises(InputError, match=reason):
        download([f"{server.url}/m{suffix}"], tmp_path / f"m{suffix}", Download(gigabytes=0.003), lines.append)
    assert not list(tmp_path.iterdir())


def test_a_size_is_compared_within_its_precision() -> None:
    assert Download(gigabytes=15.5).tolerance == 100_000_000 and Download(gigabytes=1.58).tolerance == 10_000_000
    assert Download(gigabytes=1.0e-6).tolerance == 64_000 and Download(bytes=5).tolerance == 0
    assert wrong_size(15_465_973_531, Download(gigabytes=15.5)) is None
    assert wrong_size(21, Download(gigabytes=1.58)) == "21 bytes where about 1.58 GB are registered"


def test_no_source_left_says_what_each_answered(server: Server, tmp_path: Path, lines: list[str], monkeypatch) -> None:
    monkeypatch.setattr(download_module, "TIMEOUT", 2.0)
    urls = [f"{server.url}/first/m.bin", "http://127.0.0.1:9/m.bin"]  # nothing listens on port 9
    with pytest.raises(InputError) as error:
        download(urls, tmp_path / "m.bin", known(), lines.append)
    assert all(
        part in str(error.value) for part in ("/first/m.bin: it answers 404", "127.0.0.1:9/m.bin: the connection failed")
    )


def test_a_source_that_sends_nothing_is_abandoned(server: Server, tmp_path: Path, lines: list[str], monkeypatch) -> None:
    import socket

    monkeypatch.setattr(download_module, "TIMEOUT", 0.3)
    server.files["/m.bin"] = CONTENT
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [f"http://127.0.0.1:{silent.getsockname()[1]}/m.bin", f"{server.url}/m.bin"]
        assert download(urls, tmp_path / "m.bin", known(), lines.append)[1] == urls[1]


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path, lines: list[str]) -> None:
    server.files["/m.bin"], server.cut_after["/m.bin"] = CONTENT, [1_000_000, 500_000]
    download([f"{server.url}/m.bin"], tmp_path / "m.bin", known(), lines.append)
    assert (tmp_path / "m.bin").read_bytes() == CONTENT
    assert server.ranges("/m.bin") == [None, "bytes=1000000-", "bytes=1500000-"]
    assert server.sent("/m.bin") == len(CONTENT)  # not a byte twice


def test_an_interrupted_download_is_resumed_by_the_next_process(server: Server, tmp_path: Path, lines: list[str]) -> None:
    server.files["/m.bin"], server.cut_after["/m.bin"] = CONTENT, [1_000_000, 0]
    for expected in (known(), known(sha256=None)):  # with a registered hash, and without
        server.seen.clear()
        server.cut_after["/m.bin"] = [1_000_000, 0]
        with pytest.raises(InputError, match=r"the connection ended at 1 MB of 3 MB"):
            download([f"{server.url}/m.bin"], tmp_path / "m.bin", expected, lines.append)
        assert (tmp_path / "m.bin.part").stat().st_size == 1_000_000 and not (tmp_path / "m.bin").exists()
        server.seen.clear()
        download([f"{server.url}/m.bin"], tmp_path / "m.bin", expected, lines.append)
        assert server.seen == [("/m.bin", "bytes=1000000-", len(CONTENT) - 1_000_000)]
        assert (tmp_path / "m.bin").read_bytes() == CONTENT
        (tmp_path / "m.bin").unlink()


def test_resuming_from_a_source_without_ranges_starts_anew(server: Server, tmp_path: Path, lines: list[str]) -> None:
    server.files["/m.bin"], server.no_ranges = CONTENT, True
    (tmp_path / "m.bin.part").write_bytes(CONTENT[:1000])
    download([f"{server.url}/m.bin"], tmp_path / "m.bin", known(), lines.append)
    assert (tmp_path / "m.bin").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path, lines: list[str]) -> None:
    """No hash is registered, so the entity tag must tell that the rest belongs to another file."""
    server.files["/m.bin"], server.cut_after["/m.bin"] = bytes(len(CONTENT)), [1_000_000, 0]
    expected = Download(gigabytes=0.003)  # 3072004 bytes are about that
    with pytest.raises(InputError):
        download([f"{server.url}/m.bin"], tmp_path / "m.bin", expected, lines.append)
    server.files["/m.bin"] = CONTENT
    assert download([f"{server.url}/m.bin"], tmp_path / "m.bin", expected, lines.append)[0] == SHA256


def test_halves_of_two_sources_are_never_joined_without_verification(server: Server, tmp_path: Path, lines: list[str]) -> None:
    server.files |= {"/first/m.bin": bytes(len(CONTENT)), "/second/m.bin": CONTENT}
    for expected in (Download(gigabytes=0.003), known()):
        server.cut_after["/first/m.bin"] = [1_000_000, 0]
        urls = [f"{server.url}/first/m.bin", f"{server.url}/second/m.bin"]
        assert download(urls, tmp_path / "m.bin", expected, lines.append)[0] == SHA256
        (tmp_path / "m.bin").unlink()


def test_two_downloads_of_one_file_do_not_mix(server: Server, tmp_path: Path, lines: list[str]) -> None:
    import fcntl

    with open(tmp_path / "m.bin.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="by another process"):
            download([f"{server.url}/m.bin"], tmp_path / "m.bin", known(), lines.append)


def test_a_full_disk_is_said_before_anything_is_written(server: Server, tmp_path: Path, lines: list[str], monkeypatch) -> None:
    server.files["/m.bin"] = CONTENT
    usage = type("Usage", (), {"free": 1_000_000 + download_module.SPARE})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"3 MB are to be written .* but only .* are free there.*nothing was downloaded"):
        download([f"{server.url}/m.bin"], tmp_path / "m.bin", known(), lines.append)
    assert not any(path.stat().st_size for path in tmp_path.iterdir())
    with pytest.raises(InputError):
        check_free_space(tmp_path / "not" / "there" / "yet", 2_000_000)
    check_free_space(tmp_path, 999_999)


def test_a_redirect_must_stay_secure(server: Server, tmp_path: Path, lines: list[str]) -> None:
    server.files["/real.bin"] = CONTENT
    server.redirect = {
        "/m.bin": f"{server.url}/real.bin",
        "/bad.bin": "http://example.org/m.bin",
        "/file.bin": "file:///etc/passwd",
    }
    download([f"{server.url}/m.bin"], tmp_path / "m.bin", known(), lines.append)
    for name in ("bad.bin", "file.bin"):
        with pytest.raises(InputError):
            download([f"{server.url}/{name}"], tmp_path / name, known(), lines.append)


def test_a_token_goes_to_its_own_host_only(server: Server, tmp_path: Path, lines: list[str], monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.files["/real.bin"], server.redirect = CONTENT, {"/m.bin": f"{server.url}/real.bin"}
    download([f"{server.url}/m.bin"], tmp_path / "m.bin", known(), lines.append)
    assert not any("Authorization" in headers for headers in server.headers)
    monkeypatch.setattr(download_module, "TOKEN_HOST", "127.0.0.1")
    server.headers.clear()
    download([f"{server.url}/m.bin"], tmp_path / "again.bin", known(), lines.append)
    assert [headers.get("Authorization") for headers in server.headers] == ["Bearer secret", None]  # not redirected
