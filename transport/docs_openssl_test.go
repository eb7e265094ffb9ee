package transport

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"multiraft/wire"
)

// The commands in docs/security.md make certificates that stores talk with.
func TestOpensslCommandsInDocs(t *testing.T) {
	for _, tool := range []string{"openssl", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: %v", tool, err)
		}
	}
	doc, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```sh\n")
	commands, _, ok := strings.Cut(rest, "```\n")
	if !ok || !strings.Contains(commands, "store/1") {
		t.Fatalf("no commands for store 1 in the document: %q", commands)
	}
	dir := t.TempDir()
	authority, stores, _ := strings.Cut(commands, "\n\n")
	second := strings.NewReplacer("store1", "store2", "store 1", "store 2", "store/1", "store/2", "Store 1", "Store 2").Replace(stores)
	for _, script := range []string{authority, stores, second} {
		cmd := exec.Command("sh", "-e", "-c", script) // #nosec G204 -- from the document
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s\n%s", err, script, out)
		}
	}
	files := func(store string) *TLSFiles {
		path := func(name string) string { return filepath.Join(dir, name) }
		return &TLSFiles{Certificate: path(store + ".pem"), Key: path(store + ".key"), Authorities: path("authority.pem")}
	}
	b := newTestTCP(t, TCPConfig{Cluster: 7, Store: 2, TLS: files("store2").Config, Peers: map[wire.StoreID]string{1: ""}})
	a := newTestTCP(t, TCPConfig{Cluster: 7, Store: 1, TLS: files("store1").Config, Peers: map[wire.StoreID]string{2: b.Addr()}})
	mustStart(t, b)
	mustStart(t, a).await(upEvent)
}
