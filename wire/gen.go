package wire

//go:generate go run multiraft/gen/cmd/mrgen -package wire -out .
