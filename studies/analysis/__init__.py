"""What runs leave on disk, as tables, laws, figures and one report. No torch here: it reads files and draws.

From a study's folder to a chart:

    from studies.analysis import results
    from studies.analysis.charts import runs
    study = results.read_study("runs/demo")
    runs.loss_curves(study).save("curves.html")
"""
