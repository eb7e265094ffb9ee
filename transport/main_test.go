package transport

import (
	"testing"

	"multiraft/internal/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }
