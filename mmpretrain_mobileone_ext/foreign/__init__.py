"""Weights of Apple's and timm's MobileOne: known by their names, converted.

``keys`` and ``recognize`` look at names alone and import nothing of the
package, so ``models`` and ``engine`` may use them; ``convert`` builds models
and is for tools.
"""
