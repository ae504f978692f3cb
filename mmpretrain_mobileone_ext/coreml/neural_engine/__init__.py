"""What a saved program meets on Apple's Neural Engine, told without a device.

Facts are from S. H. Bryngelson, *Apple Neural Engine: Architecture, Programming, and Performance*,
arXiv 2606.22283 (CC BY 4.0), retyped with their chapter and with how its author knows them. He
drove the engine directly: Core ML may still choose another unit for what would run on it.
"""
