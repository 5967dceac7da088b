# plan, table, figure, report, ceilings and the list of methods: numbers become tables and pages.
# Reads   config/, results/{dataset}/{example}/{method}/seed{seed}/{stage}/scores.json
# Writes  results/plans/{table}.json, reports/{table}.{csv,md,tex,html,png}, reports/{table}-cells.csv, reports/{table}-report.html,
#         reports/ceilings.csv, reports/methods.md


localrules:
    plan,
    methods,


rule plan:
    output:
        plan="results/plans/{table}.json",
    log:
        "logs/{table}/plan.log",
    params:
        axes=lambda wildcards: jobs.axes(wildcards.table),
    shell:
        "python -m magic123 plan --axes {params.axes:q} --out {output.plan} > {log} 2>&1"


rule table:
    input:
        plan="results/plans/{table}.json",
        results=lambda wildcards: jobs.table_results(wildcards.table),
        reported=lambda wildcards: jobs.reported_numbers(wildcards.table),
    output:
        expand("reports/{{table}}{suffix}", suffix=TABLE_FILES),
    log:
        "logs/{table}/table.log",
    benchmark:
        "benchmarks/{table}/table.jsonl"
    params:
        settings=lambda wildcards: jobs.table_settings(wildcards.table),
        out=subpath(output[0], strip_suffix=".csv"),
        version=VERSIONS["table"],
    shell:
        "python -m magic123 table --plan {input.plan} --settings {params.settings:q} --out {params.out} > {log} 2>&1"


rule figure:
    input:
        plan="results/plans/{table}.json",
        views=lambda wildcards: [f"{cell['path']}/views" for cell in cells(axes_of(suite, wildcards.table))],
    output:
        report("reports/{table}.png", category="{table}", labels={"shows": "one unseen view of every result"}),
    log:
        "logs/{table}/figure.log",
    params:
        truth=lambda wildcards: TRUTH,
    shell:
        "python -m magic123 figure --plan {input.plan} --truth {params.truth:q} --out {output} > {log} 2>&1"


rule report:
    input:
        plan="results/plans/{table}.json",
        table="reports/{table}.csv",
        results=lambda wildcards: jobs.table_results(wildcards.table),
        reported=lambda wildcards: jobs.reported_numbers(wildcards.table),
    output:
        page=report("reports/{table}-report.html", category="{table}", labels={"shows": "everything, on one page"}),
    log:
        "logs/{table}/report.log",
    benchmark:
        "benchmarks/{table}/report.jsonl"
    params:
        settings=lambda wildcards: jobs.table_settings(wildcards.table),
        truth=lambda wildcards: TRUTH,
        version=VERSIONS["report"],
    shell:
        "python -m magic123 report --plan {input.plan} --settings {params.settings:q} --truth {params.truth:q} --out {output.page} > {log} 2>&1"


rule methods:
    input:
        methods=suite.settings.registries.methods,
    output:
        "reports/methods.md",
    log:
        "logs/methods.log",
    shell:
        "python -m magic123 methods --methods {input.methods} --out {output} > {log} 2>&1"


rule ceilings:
    input:
        sentence(jobs.ceiling_pictures),
    output:
        report("reports/ceilings.csv", category="ceilings", labels={"shows": "what a perfect prediction scores"}),
    log:
        "logs/ceilings.log",
    params:
        folder=lambda wildcards: jobs.ceilings_folder(),
        names=shell_words(*suite.settings.ceilings.datasets),
        version=VERSIONS["score"],
    shell:
        "python -m magic123 ceilings --datasets {params.folder:q} --names {params.names} --out {output} > {log} 2>&1"
