// Runs the scripts of a folder in Argo CD's layout over their test data, as Argo CD does: by gopher-lua, with the object as `obj`.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	lua "github.com/yuin/gopher-lua"
	"gopkg.in/yaml.v3"
)

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

func read(path string, into any) {
	bytes, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(bytes, into)
	}
	if err != nil {
		fail("%s: %v", path, err)
	}
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch v := value.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, item := range v {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, item := range v {
			table.Append(toLua(state, item))
		}
		return table
	case string:
		return lua.LString(v)
	case bool:
		return lua.LBool(v)
	case int:
		return lua.LNumber(v)
	case float64:
		return lua.LNumber(v)
	}
	return lua.LNil
}

func run(script string, object map[string]any) *lua.LTable {
	state := lua.NewState()
	state.SetGlobal("obj", toLua(state, object))
	if err := state.DoFile(script); err != nil {
		fail("%s: %v", script, err)
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		fail("%s returns no table", script)
	}
	return table
}

func main() {
	folder := os.Args[1]
	var cases struct {
		Tests []struct {
			HealthStatus struct{ Status, Message string } `yaml:"healthStatus"`
			InputPath    string                           `yaml:"inputPath"`
		}
	}
	read(filepath.Join(folder, "health_test.yaml"), &cases)
	for _, one := range cases.Tests {
		var object map[string]any
		read(filepath.Join(folder, one.InputPath), &object)
		health := run(filepath.Join(folder, "health.lua"), object)
		status, message := health.RawGetString("status").String(), health.RawGetString("message").String()
		if status != one.HealthStatus.Status || message != one.HealthStatus.Message {
			fail("%s: %s (%s), not %s (%s)", one.InputPath, status, message, one.HealthStatus.Status, one.HealthStatus.Message)
		}
		fmt.Printf("%s: %s\n", one.InputPath, status)
		actions := run(filepath.Join(folder, "actions/discovery.lua"), object)
		actions.ForEach(func(name, _ lua.LValue) {
			changed := run(filepath.Join(folder, "actions", name.String(), "action.lua"), object)
			metadata := changed.RawGetString("metadata").(*lua.LTable)
			annotations := metadata.RawGetString("annotations").(*lua.LTable)
			fmt.Printf("%s: %s %s\n", one.InputPath, name, annotations.RawGetString("ostler.dev/reconcile-requested-at"))
		})
	}
}
