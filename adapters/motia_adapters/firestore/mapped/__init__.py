"""Storage that is the user's own: documents at a path that an application already has.

`template` says where they are, `values` what they hold, `layout` how they are written,
`states` follows them with a listener, `stream` puts it together.
"""
