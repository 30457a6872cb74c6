package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

func httpServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// monitor is the port of --metrics-address.
type monitor struct {
	address string // "": there is none
	server  *http.Server
}

// run serves until ctx is done.
func (m monitor) run(ctx context.Context) error {
	if m.address == "" {
		return nil
	}
	listener, err := net.Listen("tcp", m.address)
	if err != nil {
		return refusedError(fmt.Errorf("--metrics-address: %w", err))
	}
	defer context.AfterFunc(ctx, func() { _ = m.server.Close() })() // what is asked there is asked again
	if err := m.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics port: %w", err)
	}
	return nil
}
