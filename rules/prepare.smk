# from_mesh, prepare and invert: a mesh is rendered, an example is made from a picture, and a token is learned for its object.
# Reads   datasets/{dataset}.csv and the files that it names, weights
# Writes  results/{dataset}/{example}/object/ (of a mesh), results/{dataset}/{example}/example/, results/{dataset}/{example}/token/


rule from_mesh:
    input:
        sentence(jobs.object_files),
    output:
        picture="results/{dataset}/{example}/object/rgba.png",
        depth="results/{dataset}/{example}/object/depth.png",
        normal="results/{dataset}/{example}/object/normal.png",
        truth=directory("results/{dataset}/{example}/object/truth"),
        mesh="results/{dataset}/{example}/object/mesh.ply",
        record="results/{dataset}/{example}/object/object.json",
    log:
        "logs/{dataset}/{example}/from-mesh.log",
    benchmark:
        "benchmarks/{dataset}/{example}/from-mesh.jsonl"
    threads: compute.threads
    resources:
        mem_mb=scaled(compute.mem_mb),
        runtime=scaled(compute.runtime),
    params:
        options=sentence(jobs.object_options),
        contents=sentence(jobs.object_contents),
        folder=lambda wildcards: jobs.object_folder(wildcards),
        made=lambda wildcards: jobs.object_made(wildcards),
        version=VERSIONS["from-mesh"],
    shell:
        "python -m magic123 from-mesh {params.options} --out {params.folder:q} > {log:q} 2>&1"


rule prepare:
    input:
        unpack(sentence(jobs.example_inputs)),
        weights=jobs.weight_files(*suite.prepare_weights().values()),
    output:
        folder=directory("results/{dataset}/{example}/example"),
    log:
        "logs/{dataset}/{example}/prepare.log",
    benchmark:
        "benchmarks/{dataset}/{example}/prepare.jsonl"
    threads: compute.threads
    resources:
        gpu=compute.gpu,
        mem_mb=scaled(compute.mem_mb),
        runtime=scaled(compute.runtime),
    params:
        about=sentence(jobs.example_options),
        contents=sentence(jobs.example_contents),
        weights=lambda wildcards: jobs.weight_contents(*suite.prepare_weights().values()),
        revisions=[suite.weights[name].revision for name in suite.prepare_weights().values()],
        settings=lambda wildcards: suite.settings.prepare.settings.model_dump_json(),
        made=lambda wildcards: jobs.example_made(wildcards),
        version=VERSIONS["prepare"],
    shell:
        "on_card python -m magic123 prepare {params.about} --settings {params.settings:q} --out {output.folder:q} > {log:q} 2>&1"


rule invert:
    input:
        example="results/{dataset}/{example}/example",
        weights=jobs.weight_files(suite.settings.invert.weights),
    output:
        folder=directory("results/{dataset}/{example}/token"),
    log:
        "logs/{dataset}/{example}/invert.log",
    benchmark:
        "benchmarks/{dataset}/{example}/invert.jsonl"
    threads: compute.threads
    resources:
        gpu=compute.gpu,
        mem_mb=scaled(compute.mem_mb),
        runtime=scaled(compute.runtime),
        save_seconds=compute.save_seconds,
        speed=compute.speed.model_dump_json(exclude_none=True),
    params:
        weights=lambda wildcards: suite.weights[suite.settings.invert.weights].path,
        contents=lambda wildcards: jobs.weight_contents(suite.settings.invert.weights),
        revision=suite.weights[suite.settings.invert.weights].revision,
        seed=suite.settings.invert.seed,
        settings=lambda wildcards: suite.settings.invert.settings.model_dump_json(),
        made=lambda wildcards: jobs.token_made(wildcards),
        version=VERSIONS["invert"],
    shell:
        "on_card python -m magic123 invert --example {input.example:q} --weights {params.weights:q} --settings {params.settings:q} --seed {params.seed:q} --out {output.folder:q} --save-seconds {resources.save_seconds:q} --speed {resources.speed:q} > {log:q} 2>&1"
