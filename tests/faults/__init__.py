"""A campaign of seeded faults on small studies that `triptych run` trains for real.

python -m tests.faults [--faults 300] [--seed 0] [--kinds worker,full] [--only 4 7] [--lives 2] [--out FOLDER]
                       [--json]

A study has several faults in its life. After each it goes on, started again where the fault ended it, and in the end
all that it left is judged against the same study trained in peace (`judge`). A fault that came too late, or hit
nothing, is tried again in another life. The folder of a life that was lost is kept.
"""
