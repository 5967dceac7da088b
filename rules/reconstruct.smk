# reconstruct: a scene is optimised for an example, stage by stage. The resolved settings of a stage are its params, so that a
# changed weight reruns only the stages that inherit it.
# Reads   results/{dataset}/{example}/example/, token/, the checkpoint that a stage starts from, weights
# Writes  results/{dataset}/{example}/{method}/seed{seed}/{stage}/checkpoint.safetensors, stage.json, losses.csv, and the logs that
#         the stage's setting `watch` enables: guidance/, progress/, tensorboard/, which no rule reads. Beside that folder:
#         .{stage}.unfinished/ while it runs, from which an interrupted run resumes, and .{stage}.status.json


rule reconstruct:
    input:
        unpack(sentence(jobs.stage_inputs)),
    output:
        checkpoint="results/{dataset}/{example}/{method}/seed{seed}/{stage}/checkpoint.safetensors",
        record="results/{dataset}/{example}/{method}/seed{seed}/{stage}/stage.json",
        losses="results/{dataset}/{example}/{method}/seed{seed}/{stage}/losses.csv",
    log:
        "logs/{dataset}/{example}/{method}/seed{seed}/{stage}/reconstruct.log",
    benchmark:
        "benchmarks/{dataset}/{example}/{method}/seed{seed}/{stage}/reconstruct.jsonl"
    threads: compute.threads
    resources:
        gpu=compute.gpu,
        mem_mb=scaled(compute.mem_mb),
        runtime=scaled(compute.runtime),
        save_seconds=compute.save_seconds,
        speed=compute.speed.model_dump_json(exclude_none=True),
    params:
        stage=sentence(jobs.stage_settings),
        options=sentence(jobs.stage_options),
        folder=lambda wildcards: jobs.folder(wildcards),
        contents=sentence(jobs.stage_weight_contents),
        revisions=sentence(jobs.stage_revisions),
        version=VERSIONS["reconstruct"],
    shell:
        "on_card python -m magic123 reconstruct --example {input.example:q} --stage {params.stage:q} --seed {wildcards.seed:q} {params.options} --out {params.folder:q} --save-seconds {resources.save_seconds:q} --speed {resources.speed:q} > {log:q} 2>&1"
