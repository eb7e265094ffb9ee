package wire

// codecVersion is the protocol version that the hand-written half of this
// package, and the readers of its bytes in other packages, were written for.
// It is raised by hand, together with the schema, by who has checked them: the
// generated half does not compile with any other.
const codecVersion = 2
