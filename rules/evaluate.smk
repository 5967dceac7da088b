# view, external, adopt, adopt_mesh and score: a stage is rendered, or pictures or meshes of another system are made and
# adopted; then they are scored.
# Reads   {stage}/checkpoint.safetensors, results/{dataset}/{example}/example/, the dataset's truth, weights
# Writes  {stage}/views/, {stage}/mesh/, {stage}/scores.json   ({stage}: results/{dataset}/{example}/{method}/seed{seed}/{stage})


rule view:
    input:
        checkpoint="results/{dataset}/{example}/{method}/seed{seed}/{stage}/checkpoint.safetensors",
        example="results/{dataset}/{example}/example",
        cameras=sentence(jobs.camera_inputs),
    output:
        views=directory("results/{dataset}/{example}/{method}/seed{seed}/{stage}/views"),
        mesh=directory("results/{dataset}/{example}/{method}/seed{seed}/{stage}/mesh"),
    log:
        "logs/{dataset}/{example}/{method}/seed{seed}/{stage}/view.log",
    benchmark:
        "benchmarks/{dataset}/{example}/{method}/seed{seed}/{stage}/view.jsonl"
    wildcard_constraints:
        method=one_of(suite.methods.keys() - jobs.foreign_methods),
    threads: compute.threads
    resources:
        gpu=compute.gpu,
        mem_mb=scaled(compute.mem_mb),
        runtime=scaled(compute.runtime),
    params:
        folder=lambda wildcards: jobs.folder(wildcards),
        settings=lambda wildcards: suite.settings.view.model_dump_json(),
        cameras=lambda wildcards: jobs.camera_options(wildcards),
        contents=lambda wildcards: jobs.camera_contents(wildcards),
        made=lambda wildcards: jobs.views_made(wildcards),
        version=VERSIONS["view"],
    shell:
        "on_card python -m magic123 view --checkpoint {params.folder:q} --example {input.example:q} --settings {params.settings:q} {params.cameras} --out {output.views:q} --mesh {output.mesh:q} > {log:q} 2>&1"


rule external:
    input:
        sentence(jobs.external_inputs),
        example="results/{dataset}/{example}/example",
    output:
        made=directory("results/{dataset}/{example}/{method}/seed{seed}/{stage}/made"),
    log:
        "logs/{dataset}/{example}/{method}/seed{seed}/{stage}/external.log",
    benchmark:
        "benchmarks/{dataset}/{example}/{method}/seed{seed}/{stage}/external.jsonl"
    wildcard_constraints:
        method=one_of(jobs.command_methods),
    conda:
        lambda wildcards: jobs.external_conda(wildcards)
    threads: lambda wildcards: jobs.external(wildcards).threads
    resources:
        gpu=lambda wildcards: compute.gpu if jobs.external(wildcards).gpu else 0,
        mem_mb=lambda wildcards, attempt: jobs.external(wildcards).mem_mb * attempt,
        runtime=lambda wildcards: int(jobs.external(wildcards).minutes) + 5,
    params:
        card=lambda wildcards: "on_card " if jobs.external(wildcards).gpu else "",
        options=lambda wildcards: jobs.external_options(wildcards),
        contents=lambda wildcards: jobs.external_contents(wildcards),
        version=VERSIONS["external"],
    shell:
        "{params.card}python -m magic123 external {params.options} --example {input.example:q} --out {output.made:q} > {log:q} 2>&1"


rule adopt:
    input:
        renders=jobs.render_files,
        example="results/{dataset}/{example}/example",
        cameras=sentence(jobs.camera_inputs),
    output:
        views=directory("results/{dataset}/{example}/{method}/seed{seed}/{stage}/views"),
        mesh=directory("results/{dataset}/{example}/{method}/seed{seed}/{stage}/mesh"),
    log:
        "logs/{dataset}/{example}/{method}/seed{seed}/{stage}/view.log",
    benchmark:
        "benchmarks/{dataset}/{example}/{method}/seed{seed}/{stage}/view.jsonl"
    wildcard_constraints:
        method=one_of(jobs.rendered_methods),
    params:
        folder=lambda wildcards: jobs.render_folder(wildcards),
        settings=lambda wildcards: jobs.view_cameras(),
        cameras=lambda wildcards: jobs.camera_options(wildcards),
        contents=lambda wildcards: [jobs.render_contents(wildcards), *jobs.camera_contents(wildcards)],
        made=lambda wildcards: jobs.views_made(wildcards),
        version=VERSIONS["score"],
    shell:
        "python -m magic123 adopt --renders {params.folder:q} --example {input.example:q} --settings {params.settings:q} {params.cameras} --out {output.views:q} --mesh {output.mesh:q} > {log:q} 2>&1"


rule adopt_mesh:
    input:
        unpack(sentence(jobs.foreign_mesh_files)),
        example="results/{dataset}/{example}/example",
        cameras=sentence(jobs.camera_inputs),
    output:
        views=directory("results/{dataset}/{example}/{method}/seed{seed}/{stage}/views"),
        mesh=directory("results/{dataset}/{example}/{method}/seed{seed}/{stage}/mesh"),
    log:
        "logs/{dataset}/{example}/{method}/seed{seed}/{stage}/view.log",
    benchmark:
        "benchmarks/{dataset}/{example}/{method}/seed{seed}/{stage}/view.jsonl"
    wildcard_constraints:
        method=one_of(jobs.meshed_methods),
    threads: compute.threads
    resources:
        mem_mb=scaled(compute.mem_mb),
        runtime=scaled(compute.runtime),
    params:
        options=sentence(jobs.foreign_mesh_options),
        cameras=lambda wildcards: jobs.camera_options(wildcards),
        contents=lambda wildcards: [*jobs.foreign_mesh_contents(wildcards), *jobs.camera_contents(wildcards)],
        made=lambda wildcards: jobs.views_made(wildcards),
        version=VERSIONS["adopt-mesh"],
    shell:
        "python -m magic123 adopt-mesh {params.options} --example {input.example:q} {params.cameras} --out {output.views:q} --mesh-out {output.mesh:q} > {log:q} 2>&1"


rule score:
    input:
        unpack(sentence(jobs.score_inputs)),
        weights=jobs.weight_files(*suite.settings.score.weights),
    output:
        scores="results/{dataset}/{example}/{method}/seed{seed}/{stage}/scores.json",
    log:
        "logs/{dataset}/{example}/{method}/seed{seed}/{stage}/score.log",
    benchmark:
        "benchmarks/{dataset}/{example}/{method}/seed{seed}/{stage}/score.jsonl"
    threads: compute.threads
    resources:
        gpu=compute.gpu,
        mem_mb=scaled(compute.mem_mb),
        runtime=scaled(compute.runtime),
    params:
        options=sentence(jobs.score_options),
        contents=sentence(jobs.score_contents),
        weights=lambda wildcards: jobs.weight_contents(*suite.settings.score.weights),
        revisions=[suite.weights[name].revision for name in suite.settings.score.weights],
        version=VERSIONS["score"],
    shell:
        "on_card python -m magic123 score --views {input.views:q} --reference {input.example:q} {params.options} --out {output.scores:q} > {log:q} 2>&1"
