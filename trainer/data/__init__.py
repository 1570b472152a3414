"""Pictures and masks on the way to training: found, read, split, reduced, cached and checked.

`layouts/` knows how faces lie on a disk, `synthetic/` draws the built-in ones; both give a
`source`. `image_files` and `mask_files` read a file, `split` and `plan` put pairs into parts,
`cache` keeps them reduced, `dataset` is what training opens, `audit` finds what is wrong with a set
(`mask_geometry`: sides, `class_order`: ids).
"""
