//go:build !planted

package planted

// Is is false: no bug can be planted.
func Is(Bug) bool { return false }
