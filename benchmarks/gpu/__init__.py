"""What vader does on a CUDA machine: one script, no network, no pretrained weights, bounded in time.

::

    python -m benchmarks.gpu.pack WHEELS        # where there is a network: what a bare CUDA machine lacks, as wheels
    bash benchmarks/gpu/run.sh WHEELS OUT       # on the CUDA machine: installs them aside and runs everything
    python -m benchmarks.gpu --out OUT          # where vader is installed; --dry runs the same at toy size on a CPU

Real architectures with random weights run the trainer's own optimizer steps. Each part is a process of its own with a
time limit, and is reported even if another fails. ``OUT/gpu.json`` and ``OUT/gpu.md`` hold the figures.
"""
