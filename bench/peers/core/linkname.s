// See quorum.go.
