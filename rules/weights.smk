# fetch_weights, fetch_file, convert and canary: weights and pictures are downloaded once, verified and converted.
# `snakemake prefetch` downloads everything before a run. On a cluster the downloads run where Snakemake runs, because other nodes
# may have no network.
# Reads   config/weights.yaml, datasets/{dataset}.csv, the network
# Writes  weights/{weights}/ with receipt.json, the hashes of its files; weights/locks/; the pictures of a dataset


localrules:
    fetch_weights,
    fetch_file,
    prefetch,


rule fetch_weights:
    output:
        receipt="{folder}/receipt.json",
    log:
        "logs/{folder}/fetch.log",
    benchmark:
        "benchmarks/{folder}/fetch.jsonl"
    wildcard_constraints:
        folder=one_of(jobs.weights_in["fetched"]),
    params:
        name=lambda wildcards: jobs.weights_in["fetched"][wildcards.folder],
        downloads=lambda wildcards: jobs.downloads(wildcards.folder),
        registry=suite.settings.registries.weights,
    shell:
        "python -m magic123 prefetch --weights {params.name:q} --registry {params.registry:q} 2>&1 | tee {log:q}"


rule fetch_file:
    output:
        file=update(f"{suite.settings.datasets_folder}/{{file}}"),
    log:
        "logs/datasets/{file}.log",
    benchmark:
        "benchmarks/datasets/{file}.jsonl"
    wildcard_constraints:
        file=one_of(jobs.fetchable),
    params:
        dataset=lambda wildcards: jobs.fetchable[wildcards.file],
    shell:
        "python -m magic123 prefetch --dataset {params.dataset:q} --file {wildcards.file:q} --out {output.file:q} 2>&1 | tee {log:q}"


rule convert:
    input:
        receipt=lambda wildcards: jobs.base_receipt(wildcards.folder),
    output:
        receipt="{folder}/receipt.json",
    log:
        "logs/{folder}/convert.log",
    benchmark:
        "benchmarks/{folder}/convert.jsonl"
    wildcard_constraints:
        folder=one_of(jobs.weights_in["converted"]),
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(60),
        original="keep" if compute.keep_checkpoints else "delete",  # a resource, so that a change does not rerun the rule
    params:
        name=lambda wildcards: jobs.weights_in["converted"][wildcards.folder],
        conditioning=lambda wildcards: jobs.converted(wildcards.folder).conditioning,
        contents=lambda wildcards: jobs.base_contents(wildcards.folder),
        registry=suite.settings.registries.weights,
        version=VERSIONS["convert"],
    shell:
        "python -m magic123 convert --weights {params.name:q} --registry {params.registry:q} --original {resources.original:q} > {log:q} 2>&1"


rule canary:
    input:
        receipt="{folder}/receipt.json",
    output:
        file=f"{{folder}}/{CANARY}",
    log:
        "logs/{folder}/canary.log",
    benchmark:
        "benchmarks/{folder}/canary.jsonl"
    wildcard_constraints:
        folder=one_of(jobs.clip_folders),
    threads: compute.threads
    resources:
        gpu=compute.gpu,
        mem_mb=scaled(24000),
        runtime=scaled(compute.runtime),
    shell:
        "on_card python -m magic123 canary --clip {wildcards.folder:q} > {log:q} 2>&1"


rule prefetch:
    input:
        jobs.weight_files(*weights_used(suite)),
        [file.path for file in dataset_files_needed(suite)],
