"""What `extends` means, files laid over each other, and what is recorded of defaults."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from written_settings import METHODS, write

from magic123.records.errors import InputError
from magic123.run.method_list import differences
from magic123.settings.method import load_methods
from magic123.settings.settings_file import merge
from magic123.settings.stage import stage_settings


def test_keys_override_one_by_one(methods_file) -> None:
    row = methods_file(METHODS + "row: {extends: base, stages: {coarse: {losses: {mask: 7}}}}")["row"]
    assert row.stages["coarse"].losses.rgb == 3 and row.stages["coarse"].losses.mask == 7
    assert row.stages["coarse"].steps == 10 and set(row.stages) == {"coarse", "fine"}


def test_null_removes(methods_file) -> None:
    methods = methods_file(METHODS + "row: {extends: base, stages: {fine: null, coarse: {losses: {rgb: null}}}}")
    assert set(methods["row"].stages) == {"coarse"}
    assert methods["row"].stages["coarse"].losses.rgb == stage_settings(scene="nerf").losses.rgb  # back to the default
    assert set(methods["base"].stages) == {"coarse", "fine"}  # the base is left as it was


def test_lists_are_replaced_whole() -> None:
    assert merge({"range": [1, 2], "kept": 1}, {"range": [3]}, "file", "at") == {"range": [3], "kept": 1}


def test_extends_reaches_over_several_and_in_any_order(methods_file) -> None:
    methods = methods_file(
        "c: {extends: b, stages: {coarse: {steps: 3}}}\nb: {extends: base, stages: {fine: null}}\n" + METHODS
    )
    assert methods["c"].stages["coarse"].losses.rgb == 3 and set(methods["c"].stages) == {"coarse"}


def test_label_is_not_inherited(methods_file) -> None:
    assert methods_file(METHODS + "row: {extends: base}")["row"].label == "row"


def test_differences_are_those_of_the_resolved_settings(methods_file) -> None:
    methods = methods_file(METHODS + "row: {extends: base, stages: {fine: null, coarse: {steps: 12, losses: {rgb: 3}}}}")
    assert differences(methods["row"], methods["base"]) == [("fine", "set", "absent"), ("coarse.steps", "10", "12")]


def test_options_at_their_defaults_are_not_recorded() -> None:
    """Records of before they existed are still what the settings say, so that no finished stage runs again."""
    prior = {"kind": "stable-diffusion", "weights": "sd", "weight": 1, "guidance_scale": 2}
    recorded = stage_settings(scene="nerf", priors={"text": prior}).model_dump()
    options = {"cameras": {"progressive", "jitter"}, "field": {"progressive_levels"}}
    for part, names in options.items():
        assert not names & recorded[part].keys()
    assert not {"negative_prompt", "negative_views"} & recorded["priors"]["text"].keys()
    changed = stage_settings(
        scene="nerf",
        priors={"text": prior | {"negative_prompt": "blurred", "negative_views": True}},
        cameras={"jitter": {}},
        field={"progressive_levels": {}},
    )
    assert stage_settings(**changed.model_dump(mode="json")) == changed != stage_settings(**recorded)


def each_setting_changed(part: BaseModel) -> Iterator[tuple[str, BaseModel]]:
    """Each setting of settings, by its path, and the settings with another value there, unchecked."""
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            for path, changed in each_setting_changed(value):
                yield f"{name}.{path}", part.model_copy(update={name: changed})
        elif isinstance(value, dict):
            for key, settings in value.items():
                for path, changed in each_setting_changed(settings):
                    yield f"{name}.{key}.{path}", part.model_copy(update={name: value | {key: changed}})
        else:
            another = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "another"
            yield name, part.model_copy(update={name: another})


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_whatever_a_stage_is_set_to_is_compared_between_runs() -> None:
    """The record of a stage is what Snakemake compares: a setting that it left out would leave results as they were."""
    text = {"kind": "stable-diffusion", "weights": "sd", "weight": 1, "guidance_scale": 2}
    priors = {"text": text, "view": text | {"kind": "zero123"}, "clip": {"kind": "clip", "weights": "c", "weight": 1}}
    nerf = stage_settings(
        scene="nerf",
        priors=priors,
        background={},
        reference_camera={},
        cameras={"jitter": {}},
        field={"progressive_levels": {}},
    )
    stages = [nerf, stage_settings(scene="dmtet", init="coarse"), stage_settings(scene="points", init="coarse")]
    stages.append(stage_settings(scene="samples", steps=0, priors={"view": priors["view"]}))
    for stage in stages:
        changes = dict(each_setting_changed(stage))
        assert len(changes) >= 15 and ("priors.view.guidance_scale" in changes) == bool(stage.priors)
        left_out = [path for path, changed in changes.items() if changed.model_dump_json() == stage.model_dump_json()]
        assert not left_out, f"{stage.scene}: {left_out}"


def test_files_of_methods_are_laid_over_each_other_and_extends_works_across(tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", METHODS.strip(), "old: {extends: base}")
    second = write(
        tmp_path / "second.yaml",
        "base: {label: Changed, stages: {coarse: {losses: {mask: 7}}}}",
        "small: {extends: base, stages: {coarse: {steps: 2}, fine: null}}",
        "old: null",
    )
    methods = load_methods([first, second])
    assert list(methods) == ["base", "small"] and methods["base"].label == "Changed"
    coarse = methods["small"].stages["coarse"]
    assert (coarse.steps, coarse.losses.rgb, coarse.losses.mask) == (2, 3, 7) and list(methods["small"].stages) == ["coarse"]
    write(tmp_path / "second.yaml", "small: {extends: base, stages: {coarse: {step: 2}}}")
    with pytest.raises(InputError, match=r"second.yaml: small.stages.coarse.step is not a known setting"):
        load_methods([first, second])
    write(tmp_path / "second.yaml", "base: {stages: {fine: {init: nothing}}}")
    with pytest.raises(InputError, match=r"second.yaml: base.stages.fine.init names 'nothing'"):
        load_methods([first, second])


def test_registries_take_lists(suite_of, tmp_path: Path) -> None:
    write(tmp_path / "more.yaml", "both: {label: Mine, stages: {coarse: {steps: 3}}}")
    write(tmp_path / "weights.yaml", "miniature-dpt: {licence: mine}")
    suite = suite_of("registries: {methods: [config/methods.yaml, more.yaml], weights: [config/weights.yaml, weights.yaml]}")
    assert suite.methods["both"].label == "Mine" and suite.methods["both"].stages["coarse"].steps == 3
    assert suite.weights["miniature-dpt"].licence == "mine" and suite.weights["miniature-dpt"].path == "weights/miniature/dpt"


def test_one_dtype_for_all_stages(suite_of) -> None:
    suite = suite_of("{run: {methods: [both]}, compute: {dtype: float32}, invert: {settings: {dtype: float16}}}")
    stages = [stage for name in ("magic123", "magic123-12gb", "both") for stage in suite.methods[name].stages.values()]
    assert {stage.dtype for stage in stages} == {"float32"}
    assert {prior.dtype for stage in stages for prior in stage.priors.values()} == {"float32"}
    assert "float16" not in "".join(stage.model_dump_json() for stage in stages)
    assert suite.settings.invert.settings.dtype == "float32"
    before = suite_of("{run: {methods: [both]}}").methods["magic123"].stages["coarse"]
    assert before.model_dump_json() != stages[0].model_dump_json()  # the setting is what Snakemake compares, and is recorded
    assert [type(rung) for rung in stages[0].rungs()] == [type(rung) for rung in before.rungs()]
