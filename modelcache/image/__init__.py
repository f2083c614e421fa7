"""The OCI image of the models as values: tar headers, the layers that a lock gives, documents and names of images.

Nothing here touches a file: `store` writes images, `sources` reads them.
"""
