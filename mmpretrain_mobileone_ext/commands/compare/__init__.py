"""Classifiers side by side: size, arithmetic, time, accuracy as published.

``entries`` finds the models, ``published`` what others say of them;
``network``, ``latency``, ``onnx_form`` and ``coreml_form`` measure; ``run``
puts it together, ``results`` holds it, ``present`` and ``plot`` show it and
``cli`` reads the command line.
"""
