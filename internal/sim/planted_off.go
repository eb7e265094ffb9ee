//go:build !planted

package sim

// plantedCommand is what a command that runs a plan again needs to plant the same
// bug: tags behind "go run", flags behind the program.
func plantedCommand() (tags, flags string) { return "", "" }
