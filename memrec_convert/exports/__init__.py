"""The artifact for other places: a file or folder that a runtime elsewhere takes, with samples that prove it.

The folder cannot bear the verb's name: importing it would overwrite the public function.
"""
