"""The Neural Engine's arithmetic, as far as it is public.

Facts are those of S. H. Bryngelson, "Apple Neural Engine: Architecture, Programming, and
Performance", arXiv 2606.22283 (CC BY 4.0), chapters 3, 12, 20, 26 and 35, which was measured on M1,
M2 Pro and M5. What it leaves open is filled by models of ours, and the docstrings say which are
which.
"""
