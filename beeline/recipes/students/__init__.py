"""Students of a teacher: the choice of a method by trial, and rehearsals."""
