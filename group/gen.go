package group

//go:generate go run multiraft/gen/cmd/mrgen -package group -out .
