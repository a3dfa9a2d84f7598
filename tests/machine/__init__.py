"""The random-history machine: a seed gives tables, schema files, two clients' transactions, and troubles; after each
history every index equals the oracle and a fresh build (design.md promise 9).

``draws.py`` says what a history is, ``play.py`` carries one out, ``servers.py`` holds what histories share.  As a
program: ``bin/test histories --seed N`` or ``--count N``.
"""
