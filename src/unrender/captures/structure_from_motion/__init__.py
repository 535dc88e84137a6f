"""Structure from motion: the poses and lenses of plain photos or of a video, solved by pycolmap in a process of its own.

``solve`` plans the stages, and ``child`` runs them in the process of ``solver``. ``gathering`` and ``frames`` lay out the photos,
``background`` recognizes turntables, ``placement`` finds the upward direction and the object, ``assessment`` judges
the result, and ``writing`` writes it.
"""
