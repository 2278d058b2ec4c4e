// `midstream rollback --new-is-lost`: what old knows of a new that is gone.
#include <fmt/format.h>

#include "apps/cli.h"
#include "control/check.h"
#include "control/journal.h"
#include "control/lost.h"
#include "control/oneshot.h"
#include "engine/engine.h"
#include "sys/file.h"

namespace midstream {

namespace {

constexpr Millis kPatience{30'000};

int complain(const Error& error, int code) {
  fmt::print(stderr, "midstream: {}\n", error.text());
  return code;
}

Result<Engine> folded(const std::filesystem::path& directory) {
  Engine engine;
  for (const auto& record : TRY(TRY(Journal::open_to_read(directory)).read())) CHECK_OK(engine.fold(record));
  return engine;
}

// The switches that were begun and not taken back.
std::vector<const Step*> switches_of(const State& state) {
  std::vector<const Step*> found;
  for (std::size_t i = 0; i < state.steps.size(); ++i) {
    const auto& step = state.plan.steps[i];
    const auto progress = state.steps[i].progress;
    const bool begun = progress != Progress::pending && progress != Progress::undone;
    if (begun && step.kind == StepKind::effect && step.mover == "postgres" && get_string_or(step.desired, "kind", "") == "switch") found.push_back(&step);
  }
  return found;
}

// A program of its own on old's host: it works whatever has become of the agent there, and leaves nothing.
Result<Json> ask_old(const Manifest& manifest, const Step& step) {
  if (get_string_or(step.desired, "road", "") == "physical")
    return refused(fmt::format("'{}' went by the physical road: what old has is what it has replayed, and nobody has noted how far new was", step.id),
                   "pg_last_wal_replay_lsn() on old");
  const auto name = TRY(get_string(TRY(get_object(step.desired, "old")), "host"));
  const auto* host = manifest.host(name);
  if (host == nullptr) return refused(fmt::format("the manifest has no host '{}' any more", name));
  const auto deadline = Deadline::in(kPatience);
  auto agent = TRY(Oneshot::open(ssh_target(manifest, *host), manifest.move, agent_binary(), deadline));
  Json out = Json::object();
  for (const auto& database : TRY(get_strings(step.desired, "databases"))) {
    out[database] = TRY(agent.peer({{"type", "peer"}, {"mover", "postgres"}, {"verb", "outlook"}, {"args", {{"database", database}, {"desired", step.desired}}}}, deadline));
  }
  return out;
}

}  // namespace

int command_new_is_lost(const CliOptions& options) {
  const auto manifest = parse_manifest(read_file(options.manifest, 4u << 20).value_or(""), options.manifest);
  if (!manifest) return complain(manifest.error(), kBadManifest);
  const auto engine = folded(journal_directory(options, manifest->move));
  if (!engine) return complain(engine.error(), kFailed);
  const auto switches = switches_of(engine->state());
  if (switches.empty())
    return complain({ErrorKind::refused, "no database has been switched to new: old has everything", "`midstream rollback` goes back"}, kRefused);
  Json all = Json::object();
  for (const auto* step : switches) {
    const auto found = ask_old(*manifest, *step);
    if (!found) return complain(found.error(), kFailed);
    for (const auto& [database, outlook] : found->items()) {
      all[step->service][database] = outlook;
      if (!options.json) fmt::print("{}", lost_text(step->service + "/" + database, outlook));
    }
  }
  if (options.json) fmt::print("{}\n", Json{{"version", 1}, {"services", all}}.dump(2));
  else
    fmt::print("Not mirrored back at all, and on old as they were at the switch: sequences, unlogged tables, large objects.\n");
  return complain({ErrorKind::refused, "to take a database back on old without new is not there yet; nothing was changed",
                   "bring new's host, or its disk in another one, back and use `midstream rollback`, which loses nothing"},
                  kRefused);
}

}  // namespace midstream
