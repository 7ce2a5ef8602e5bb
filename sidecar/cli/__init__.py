"""The commands: thin, over the parts that `app.py` and its neighbours hold."""
