# plan, table, figure, report, ceilings and methods: tables, figures and pages are made from the scores.
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
        "python -m magic123 plan --axes {params.axes:q} --out {output.plan:q} > {log:q} 2>&1"


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
        contents=lambda wildcards: jobs.reported_contents(wildcards.table),
        out=lambda wildcards: f"reports/{wildcards.table}",
        version=VERSIONS["table"],
    shell:
        "python -m magic123 table --plan {input.plan:q} --settings {params.settings:q} --out {params.out:q} > {log:q} 2>&1"


rule figure:
    input:
        plan="results/plans/{table}.json",
        views=lambda wildcards: [f"{cell['path']}/views" for cell in cells(axes_of(suite, wildcards.table))],
    output:
        report("reports/{table}.png", category="{table}", labels={"shows": "one unseen view of every result"}),
    log:
        "logs/{table}/figure.log",
    params:
        truth=lambda wildcards: jobs.truths,
        contents=lambda wildcards: jobs.truth_contents(),
    shell:
        "python -m magic123 figure --plan {input.plan:q} --truth {params.truth:q} --out {output:q} > {log:q} 2>&1"


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
        truth=lambda wildcards: jobs.truths,
        contents=lambda wildcards: jobs.truth_contents() + jobs.reported_contents(wildcards.table),
        version=VERSIONS["report"],
    shell:
        "python -m magic123 report --plan {input.plan:q} --settings {params.settings:q} --truth {params.truth:q} --out {output.page:q} > {log:q} 2>&1"


rule methods:
    input:
        methods=suite.settings.registries.methods,
    output:
        "reports/methods.md",
    log:
        "logs/methods.log",
    params:
        contents=lambda wildcards: jobs.method_contents(),
    shell:
        "python -m magic123 methods --methods {input.methods:q} --out {output:q} > {log:q} 2>&1"


rule ceilings:
    input:
        sentence(jobs.ceiling_pictures),
    output:
        report("reports/ceilings.csv", category="ceilings", labels={"shows": "what a perfect prediction scores"}),
    log:
        "logs/ceilings.log",
    params:
        folder=lambda wildcards: jobs.ceilings_folder(),
        names=lambda wildcards: shell_words(*suite.settings.ceilings.datasets),
        contents=lambda wildcards: sentence(jobs.ceiling_contents)(),
        version=VERSIONS["score"],
    shell:
        "python -m magic123 ceilings --datasets {params.folder:q} --names {params.names} --out {output:q} > {log:q} 2>&1"
