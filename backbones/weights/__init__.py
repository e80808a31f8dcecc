"""Published checkpoints into the backbones of this package.

`read` opens a file safely, `layout` and the `*_layouts` modules recognise whose it is and rename its tensors,
`load` fills the module, counts, and refuses what does not fit.
"""
