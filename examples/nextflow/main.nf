// A cohort by Nextflow: stages after each other, extraction and training each shared by several jobs.
//
//     nextflow run main.nf --cohort cohort.toml --jobs 2 [-profile slurm]
//
// The work is gigamil's, in the cohort's own folder, and so is its resume: a process that is tried again goes on where it
// was. Exit code 1: some items failed, are named, and the next stage goes on with the others; 75 is tried again.

params.cohort = 'cohort.toml'
params.jobs = 2

process TILE {
    errorStrategy 'retry'
    maxRetries 3

    output:
    val true

    script:
    """
    gigamil run '${file(params.cohort)}' --stage tile --workers ${task.cpus} || [ \$? -eq 1 ]
    """
}

process EXTRACT {
    errorStrategy 'retry'
    maxRetries 10

    input:
    val tiled
    each job

    output:
    val job

    script:
    """
    gigamil run '${file(params.cohort)}' --stage extract --take 16 || [ \$? -eq 1 ]
    """
}

process TRAIN {
    errorStrategy 'retry'
    maxRetries 3

    input:
    val extracted
    each job

    output:
    val job

    script:
    """
    gigamil run '${file(params.cohort)}' --stage train || [ \$? -eq 1 ]
    """
}

process AFTER {
    input:
    val trained

    script:
    """
    gigamil run '${file(params.cohort)}' --stage after
    """
}

workflow {
    jobs = Channel.of(1..params.jobs)
    tiled = TILE()
    extracted = EXTRACT(tiled, jobs).collect()
    trained = TRAIN(extracted.map { true }, jobs).collect()
    AFTER(trained.map { true })
}
