package lint

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// root is the module's folder, seen from this package.
const root = "../.."

// goFile is one source file of the module.
type goFile struct {
	path    string // below the root, with slashes
	folder  string
	pkg     string
	doc     bool // it has a package comment
	imports []string
	text    string
}

// goFiles reads every Go file of the module; modules within it are not part of it. Files are opened here and not
// by a `go list`, so that the test cache knows what the result depends on.
func goFiles(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path == root {
				return nil
			}
			if name := d.Name(); strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "data" || name == "bin" {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		below, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f := goFile{path: filepath.ToSlash(below), pkg: parsed.Name.Name, doc: parsed.Doc != nil, text: string(text)}
		f.folder = filepath.ToSlash(filepath.Dir(f.path))
		for _, i := range parsed.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, imported)
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	said := map[string]bool{}
	for _, f := range goFiles(t) {
		if !strings.HasSuffix(f.path, "_test.go") {
			said[f.folder] = said[f.folder] || f.doc
		}
	}
	for folder, ok := range said {
		if !ok {
			t.Errorf("%s has no package comment", folder)
		}
	}
}

// An API is a file and a row: a handler without its row is dead, and nobody would notice.
func TestEveryAPIFileHasItsRowInTheDispatchTable(t *testing.T) {
	table, err := os.ReadFile(filepath.Join(root, "broker/dispatch.go"))
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.ToLower(string(table))
	other := map[string]string{"versions": "apiversions", "groups": "joingroup"} // files named for more than one row
	found := 0
	for _, f := range goFiles(t) {
		name, ok := strings.CutPrefix(f.path, "broker/api_")
		if !ok || strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		found++
		handler := strings.ReplaceAll(strings.TrimSuffix(name, ".go"), "_", "")
		if special := other[handler]; special != "" {
			handler = special
		}
		if !strings.Contains(rows, "(*broker)."+handler) {
			t.Errorf("%s: the dispatch table has no row for %s", f.path, handler)
		}
	}
	if found == 0 {
		t.Error("no file broker/api_*.go found: the rule would hold for nothing")
	}
}

// A mark for later is a promise that nobody keeps: do it, or write down why not.
func TestNothingIsMarkedForLater(t *testing.T) {
	marks := []string{"FIX" + "ME", "TO" + "DO", "XX" + "X:"}
	for _, f := range goFiles(t) {
		for n, line := range strings.Split(f.text, "\n") {
			for _, m := range marks {
				if strings.Contains(line, m) {
					t.Errorf("%s:%d: %s", f.path, n+1, strings.TrimSpace(line))
				}
			}
		}
	}
}
