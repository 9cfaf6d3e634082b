package raft

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/logger"
)

// Dragonboat logs through one global factory that can be set once a process. Warnings and errors
// go to the slog.Logger of the node opened last; its chatter about normal life is dropped.
var (
	libraryLog  atomic.Pointer[slog.Logger]
	libraryOnce sync.Once
)

func routeLibraryLog(l *slog.Logger) {
	libraryLog.Store(l)
	libraryOnce.Do(func() {
		defer func() { _ = recover() }() // somebody else in this process has set it: theirs it is
		logger.SetLoggerFactory(func(pkg string) logger.ILogger { return &libraryLogger{pkg: pkg} })
	})
}

type libraryLogger struct{ pkg string }

// expected are warnings about what we do on purpose.
var expected = []string{
	"mutual TLS disabled",          // our transport does its own
	"ElectionRTT is not a magnitu", // one voter elects itself
}

func (l *libraryLogger) SetLevel(logger.LogLevel) {}
func (l *libraryLogger) Debugf(string, ...any)    {}
func (l *libraryLogger) Infof(string, ...any)     {}

func (l *libraryLogger) Warningf(format string, args ...any) {
	for _, e := range expected {
		if strings.HasPrefix(format, e) {
			return
		}
	}
	l.log(slog.LevelWarn, format, args)
}

func (l *libraryLogger) Errorf(format string, args ...any) { l.log(slog.LevelError, format, args) }

// Panicf must not return: the library counts on it.
func (l *libraryLogger) Panicf(format string, args ...any) {
	l.log(slog.LevelError, format, args)
	panic(fmt.Sprintf("raft library: "+format, args...))
}

func (l *libraryLogger) log(level slog.Level, format string, args []any) {
	if to := libraryLog.Load(); to != nil {
		to.Log(context.Background(), level, fmt.Sprintf(format, args...), "component", "raft/"+l.pkg)
	}
}
