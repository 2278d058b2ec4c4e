#include "control/adopt_move.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "control/check.h"
#include "control/controller.h"
#include "control/journal.h"
#include "control/link.h"
#include "control/rebuild.h"

namespace midstream {

namespace {

struct Agents {
  std::map<std::string, std::unique_ptr<AgentLink>> links;
  std::map<std::string, PeerAddress> peers;
};

Result<Agents> reach_all(const Manifest& manifest, const std::filesystem::path& agent_binary, Deadline deadline) {
  Agents agents;
  for (const auto& spec : manifest.hosts) {
    const auto target = ssh_target(manifest, spec);
    CHECK_OK(bootstrap_agent(target, manifest.move, agent_binary, deadline));
    auto link = TRY(AgentLink::open(target, manifest.move, deadline, [] {}));
    const auto& hello = link->hello();
    agents.peers[spec.name] = {TRY(get_string(hello, "address")),
                               static_cast<std::uint16_t>(TRY(get_int(hello, "port"))),
                               TRY(get_string(hello, "fingerprint"))};
    agents.links[spec.name] = std::move(link);
  }
  return agents;
}

Result<std::map<std::string, Json>> recall_all(const Agents& agents, Deadline deadline) {
  std::map<std::string, Json> recalled;
  for (const auto& [host, link] : agents.links) {
    auto answer = link->ask({{"type", "recall"}}, deadline);
    if (!answer) return with_context(answer.error(), fmt::format("agent on {}", host));
    recalled[host] = std::move(*answer);
  }
  return recalled;
}

// The id of the journal here; "" where there is none that could go on.
Result<std::string> journal_here(const std::filesystem::path& directory) {
  std::error_code ignored;
  if (!std::filesystem::exists(directory / "journal.db", ignored)) return "";
  auto journal = Journal::open(directory);
  if (!journal && journal.error().kind == ErrorKind::corrupt) return "";
  if (!journal) return std::unexpected(journal.error());
  const auto records = journal->read();
  if (!records || records->empty()) return "";
  Engine engine;
  for (const auto& record : *records) {
    if (!engine.fold(record)) return "";
  }
  return get_string_or(records->front(), "journal", "");
}

Result<> set_aside(const std::filesystem::path& directory) {
  const auto suffix = fmt::format(".aside-{}", wall_now_ms());
  for (const auto* name : {"journal.db", "journal.db-wal", "journal.db-shm"}) {
    std::error_code failed;
    if (!std::filesystem::exists(directory / name, failed)) continue;
    std::filesystem::rename(directory / name, directory / (name + suffix), failed);
    if (failed) return refused(fmt::format("cannot set {} aside: {}", (directory / name).string(), failed.message()));
  }
  return {};
}

}  // namespace

Result<> nobody_has_it(const Manifest& manifest, Deadline deadline) {
  for (const auto& spec : manifest.hosts) {
    const auto link =
        AgentLink::open(ssh_target(manifest, spec), manifest.move, deadline.sooner(Millis(10'000)), [] {});
    if (!link || get_string_or((*link)->hello(), "journal", "").empty()) continue;
    return refused(fmt::format("the agent on {} is in the hands of a controller with another journal", spec.name),
                   "go on with that one; where it is gone, `midstream run --adopt` takes the move over");
  }
  return {};
}

Result<> adopt_move(const Manifest& manifest, const std::filesystem::path& directory,
                    const std::filesystem::path& agent_binary, const std::function<void(const std::string&)>& tell,
                    Deadline deadline) {
  const auto here = TRY(journal_here(directory));
  const auto agents = TRY(reach_all(manifest, agent_binary, deadline));
  auto recalled = TRY(recall_all(agents, deadline));
  std::int64_t epoch = 0;
  bool serves_ours = !here.empty();
  for (const auto& [host, answer] : recalled) {
    epoch = std::max(epoch, get_int_or(answer, "epoch", 0));
    serves_ours = serves_ours && get_string_or(answer, "journal", "") == here;
  }
  if (serves_ours)
    return refused("the journal is here, and the agents serve it: there is nothing to adopt",
                   "`midstream run` goes on with it");
  const auto journal = TRY(make_journal_id());
  ++epoch;
  for (const auto& [host, link] : agents.links) {
    auto adopted = link->ask({{"type", "adopt"},
                              {"epoch", epoch},
                              {"journal", journal},
                              {"peers", to_json(agents.peers)},
                              {"takes_over", get_string_or(recalled[host], "journal", "")},
                              {"deadline_ms", 30'000}},
                             deadline);
    if (!adopted) return with_context(adopted.error(), fmt::format("agent on {}", host));
  }
  // Nobody else has any effect from here on: what they say now is what was done.
  recalled = TRY(recall_all(agents, deadline));
  const auto records = TRY(rebuild_journal(recalled, static_cast<std::uint64_t>(epoch), journal, wall_now_ms()));
  CHECK_OK(set_aside(directory));
  auto written = TRY(Journal::open(directory));
  TRY(written.read());
  CHECK_OK(written.append(records));
  tell(fmt::format("          {:<8} adopted: the journal was rebuilt from what {} agents have done; epoch {}", "move",
                   agents.links.size(), epoch));
  return {};
}

}  // namespace midstream
