"""What ``bin/demo`` runs: a shop in a throwaway Postgres, ``bin/flussod`` over it as anybody would run it, and a page.

For the checkout, not for ``pip install``: nothing of the package knows of it.
"""
