// Labels of one image. The container is named by its digest, so that a rerun is the same run.
process MEDIAR_PREDICT {
    tag "${meta.id}"
    label 'process_medium'

    container "${params.mediar_container}"

    input:
    tuple val(meta), path(image)

    output:
    tuple val(meta), path("labels/*_label.tiff"), emit: labels
    path "versions.yml", emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    """
    mediar-infer predict \\
        --input ${image} \\
        --output labels \\
        --ledger none \\
        --threads ${task.cpus} \\
        --quiet \\
        ${args}

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        mediar_infer: \$(mediar-infer --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    """
    mkdir labels
    touch labels/${image.name.tokenize('.')[0]}_label.tiff

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        mediar_infer: \$(mediar-infer --version | sed 's/.* //')
    END_VERSIONS
    """
}
