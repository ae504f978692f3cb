"""Classifiers side by side: size, arithmetic, time, accuracy as published.

``entries`` finds the models and what others say of them, ``runtimes`` makes each network as a
runtime gets it, ``run`` measures, ``table`` holds and shows what was found.
"""
