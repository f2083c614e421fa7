"""The OCI image of the models as values: tar headers, the layers that a lock gives, and the documents of an image.

Nothing here touches a file: `store` writes images, `sources` reads them.
"""
