package gocommon

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// AckSample: one record in so many has its way to the acknowledgement timed, as in `ottla bench`.
const AckSample = 64

// Job is what is to be done; the words stand at the head of ../common.rs.
type Job struct {
	Bootstrap, Topic, Workload, Compression string
	Produces                                bool
	Messages                                uint64
	Partitions, Linger, BatchSize, InFlight int
	Limit                                   time.Duration // of Klife's benches; 0 = none
	Mode                                    string
	Number                                  uint64 // of a mode: records a second, workers
	mode                                    string
}

// ReadJob reads the command line.
func ReadJob() *Job {
	j := &Job{}
	flag.StringVar(&j.Bootstrap, "b", "", "brokers")
	flag.StringVar(&j.Topic, "t", "ottla-bench", "topic")
	flag.Uint64Var(&j.Messages, "n", 1_000_000, "records")
	flag.IntVar(&j.Partitions, "partitions", 1, "partitions of the topic")
	phase := flag.String("phase", "produce", "produce or consume")
	flag.StringVar(&j.Workload, "workload", "telemetry", "telemetry, telemetry-pool, fixed:SIZE or klife")
	flag.StringVar(&j.Compression, "compression", "lz4", "lz4 or none")
	flag.IntVar(&j.Linger, "linger", 100, "milliseconds")
	flag.StringVar(&j.mode, "mode", "full", "full, waited, paced:PER_SECOND, mixed, klife-sync:WORKERS or klife-async:TASKS; reading: full or catch-up")
	flag.IntVar(&j.BatchSize, "batch-size", 1_000_000, "bytes")
	flag.IntVar(&j.InFlight, "in-flight", 0, "requests under way to one broker; 0 = the client's default")
	seconds := flag.Int("seconds", 0, "Klife's benches end after so long")
	flag.Parse()
	if *phase != "produce" && *phase != "consume" {
		Fail(fmt.Errorf("unknown phase %s", *phase))
	}
	j.Produces, j.Limit = *phase == "produce", time.Duration(*seconds)*time.Second
	name, number, with := strings.Cut(j.mode, ":")
	j.Mode = name
	if with {
		parsed, err := strconv.ParseUint(number, 10, 32)
		Fail(err)
		j.Number = parsed
	}
	if j.numbered() != (j.Number > 0) {
		Fail(fmt.Errorf("unknown mode %s", j.mode))
	}
	return j
}

func (j *Job) numbered() bool { return j.Mode == "paced" || strings.HasPrefix(j.Mode, "klife-") }

// Times says whether a record is timed.
func (j *Job) Times(index uint64) bool {
	return j.Mode == "paced" || j.Mode == "waited" || index%AckSample == 0
}

// Due waits until record `index` of a paced run is due, however late those before it were, and says since when it counts.
func (j *Job) Due(start time.Time, index uint64) time.Time {
	if j.Mode != "paced" {
		return time.Now()
	}
	due := start.Add(time.Duration(index) * time.Second / time.Duration(j.Number))
	time.Sleep(time.Until(due))
	return due
}

// Fail ends the program where there is an error.
func Fail(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

// Acks are times to the acknowledgement in microseconds, up to an hour, three significant digits. Not for several at once.
type Acks struct{ *hdrhistogram.Histogram }

// NewAcks has none yet.
func NewAcks() Acks { return Acks{hdrhistogram.New(1, 3_600_000_000, 3)} }

// Add one.
func (a Acks) Add(took time.Duration) {
	Fail(a.RecordValue(min(max(took.Microseconds(), 1), 3_600_000_000)))
}

// Told is what only the client knows; what is missing was not asked for.
type Told struct {
	Messages, Batches, Requests, WireBytes uint64
	Acks                                   Acks
	Sum                                    uint64
}

// Meter is started before the client is made.
type Meter struct {
	started time.Time
	cpu     time.Duration
}

func usage() (cpu time.Duration, switches int64) {
	var usage syscall.Rusage
	Fail(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), usage.Nvcsw + usage.Nivcsw
}

func peakRSS() uint64 {
	status, err := os.ReadFile("/proc/self/status")
	Fail(err)
	for _, line := range strings.Split(string(status), "\n") {
		if rest, found := strings.CutPrefix(line, "VmHWM:"); found {
			kib, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			Fail(err)
			return kib << 10
		}
	}
	return 0
}

// Start of a phase.
func Start() Meter {
	cpu, _ := usage()
	return Meter{time.Now(), cpu}
}

// Report prints what the phase cost, and the settings that `effective` tells.
func (m Meter) Report(job *Job, told Told, effective func(map[string]any)) {
	wall := time.Since(m.started)
	cpu, switches := usage()
	messages := float64(told.Messages)
	row := map[string]any{"phase": "consume", "messages": told.Messages, "seconds": wall.Seconds(),
		"messages_per_s": messages / wall.Seconds(), "cpu_us_per_message": float64((cpu - m.cpu).Nanoseconds()) / 1e3 / messages,
		"process_cpu_seconds": cpu.Seconds(), "context_switches": switches, "max_rss_bytes": peakRSS(),
		"batches": told.Batches, "requests": told.Requests, "wire_bytes": told.WireBytes}
	settings := map[string]any{"workload": job.Workload, "mode": job.mode, "partitions": job.Partitions,
		"go": runtime.Version(), "gomaxprocs": runtime.GOMAXPROCS(0)}
	if job.Produces {
		row["phase"] = "produce"
	}
	if told.Acks.Histogram != nil {
		at := told.Acks.ValueAtPercentile
		row["ack_us"] = map[string]any{"p50": at(50), "p99": at(99), "p999": at(99.9)}
		settings["ack_sample"] = AckSample
		if job.Mode == "waited" || job.Mode == "paced" || job.Mode == "klife-sync" {
			settings["ack_sample"] = 1
		}
	}
	if !job.Produces || job.Mode == "mixed" {
		row["checksum"], settings["assignment"] = fmt.Sprintf("%016x", told.Sum), "manual"
	}
	effective(settings)
	Fail(json.NewEncoder(os.Stdout).Encode(map[string]any{"settings": settings, "phases": []any{row}}))
}
