"""What a training step costs in every form of MobileOne, side by side.

``options`` (what to run) and ``results`` (what was found) know nothing of
torch; ``candidates``, ``step``, ``memory``, ``case``, ``exactness`` and
``sweep`` measure; ``present``, ``plot`` and ``files`` show and store; ``run``
puts them together and ``cli`` reads the command line.
"""
