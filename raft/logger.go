package raft

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4/logger"
	"github.com/lni/dragonboat/v4/statemachine"
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

// libraryLogger is the log of one of dragonboat's packages.
type libraryLogger struct{ pkg string }

// Most of what the library calls a warning is daily life: elections, proposals before a leader is
// known, snapshots put off. It is kept at debug level; what is left is worth a line, but not one per
// request.
var dailyLife = map[string]bool{"raft": true, "dragonboat": true, "rsm": true, "config": true}

func (l *libraryLogger) SetLevel(logger.LogLevel) {}
func (l *libraryLogger) Debugf(string, ...any)    {}
func (l *libraryLogger) Infof(string, ...any)     {}

func (l *libraryLogger) Warningf(format string, args ...any) {
	level := slog.LevelWarn
	if dailyLife[l.pkg] {
		level = slog.LevelDebug
	}
	l.log(level, format, args)
}

func (l *libraryLogger) Errorf(format string, args ...any) {
	level := slog.LevelError
	if strings.Contains(fmt.Sprint(args...), statemachine.ErrSnapshotAborted.Error()) {
		level = slog.LevelDebug // we did, and said why
	}
	l.log(level, format, args)
}

// Panicf must not return: the library counts on it.
func (l *libraryLogger) Panicf(format string, args ...any) {
	l.log(slog.LevelError, format, args)
	panic(fmt.Sprintf("raft library: "+format, args...))
}

func (l *libraryLogger) log(level slog.Level, format string, args []any) {
	to := libraryLog.Load()
	if to == nil || !to.Enabled(context.Background(), level) || !libraryQuota.take(format) {
		return
	}
	to.Log(context.Background(), level, fmt.Sprintf(format, args...), "component", "raft/"+l.pkg)
}

// quota lets each message through a few times a minute.
type quota struct {
	mu    sync.Mutex
	since time.Time
	seen  map[string]int
}

const repeatsPerMinute = 3

var libraryQuota quota

func (q *quota) take(format string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t := now(); t.Sub(q.since) > time.Minute {
		q.since, q.seen = t, map[string]int{}
	}
	q.seen[format]++
	return q.seen[format] <= repeatsPerMinute
}
