"""The command line (extra ``cli``): ``agd train``, ``agd fit``, ``agd predict`` and ``agd backends``.

It reads tables, calls the public functions of agd, and prints; nothing else imports it.
"""
