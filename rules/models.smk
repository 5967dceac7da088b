# The miniature networks and the demo dataset, trained and rendered from scratch. They are included in the repository, so no run
# needs these rules, and their outputs stay under results/ until install_miniatures is requested.
# Reads   weights/miniature/, to compare the quality of the networks
# Writes  results/miniatures/; install_miniatures: weights/miniature/, datasets/demo/, datasets/demo.csv


rule miniature_pool:
    output:
        folder=directory("results/miniatures/pool"),
    log:
        "logs/miniatures/pool.log",
    benchmark:
        "benchmarks/miniatures/pool.jsonl"
    threads: 2
    shell:
        "python -m magic123 miniatures pool --out {output.folder:q} > {log:q} 2>&1"


rule miniature:
    input:
        unpack(lambda wildcards: miniature_inputs(wildcards.network)),
    output:
        folder=directory("results/miniatures/{network}"),
    log:
        "logs/miniatures/{network}.log",
    benchmark:
        "benchmarks/miniatures/{network}.jsonl"
    wildcard_constraints:
        network=one_of(MINIATURES),
    resources:
        gpu=compute.gpu,
        mem_mb=scaled(6000),
        runtime=scaled(600),
    params:
        options=lambda wildcards: miniature_options(wildcards.network),
    shell:
        "on_card python -m magic123 miniatures {wildcards.network:q} {params.options} --out {output.folder:q} > {log:q} 2>&1"


rule demo_dataset:
    output:
        folder=directory("results/miniatures/datasets"),
    log:
        "logs/miniatures/datasets.log",
    benchmark:
        "benchmarks/miniatures/datasets.jsonl"
    shell:
        "python -m magic123 miniatures demo --out {output.folder:q} > {log:q} 2>&1"


rule miniature_quality:
    input:
        trained=expand("results/miniatures/{network}", network=INSTALLED_MINIATURES),
        shipped=expand(
            "weights/miniature/{network}/training.json", network=[*INSTALLED_MINIATURES, "zero123/vae", "stable-diffusion/vae"]
        ),
        views="weights/miniature/zero123/novel-views.json",
        trainings="weights/miniature/trainings.tsv",
    output:
        table="results/miniatures/quality.tsv",
    log:
        "logs/miniatures/quality.log",
    benchmark:
        "benchmarks/miniatures/quality.jsonl"
    shell:
        "python -m magic123 miniatures compare --trained results/miniatures --out {output.table:q} 2>&1 | tee {log:q}"


rule miniatures:
    input:
        expand("results/miniatures/{network}", network=INSTALLED_MINIATURES),
        "results/miniatures/datasets",
        "results/miniatures/quality.tsv",


rule install_miniatures:
    input:
        networks=expand("results/miniatures/{network}", network=INSTALLED_MINIATURES),
        datasets="results/miniatures/datasets",
    output:
        note=touch("results/miniatures/installed"),
    log:
        "logs/miniatures/install.log",
    shell:
        "{{ mkdir -p weights/miniature && cp -rf {input.networks:q} weights/miniature && cp -rf {input.datasets:q}/. datasets && python -m magic123 canary --clip weights/miniature/clip --perceptual weights/miniature/perceptual && python -m magic123 miniatures cards --out weights/miniature; }} > {log:q} 2>&1"
