"""How long a saved file will run, and how wrong that may be.

``features`` makes layers of a program, ``forms`` makes milliseconds of layers, ``fit`` finds a
form's parameters and its errors on networks that it never saw, ``estimate`` is what others call,
and ``calibrate`` fits to a user's device. ``published.json`` is what was measured by others,
``fitted.json`` what ``mobileone-ext benchmark-latency`` made of it.
"""
