#include "lab/checker/judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>

#include "base/text.h"
#include "lab/checker/tenure.h"

namespace midstream::lab {
namespace {

constexpr std::size_t kMostDetails = 20;

// What the ledgers say about one order, or one version of a file.
struct Asked {
  Record attempt;
  RecordType outcome = RecordType::unknown;  // also where there is none
  std::int64_t id = 0;
};

// A file's versions in the order in which their one user asked for them.
using Versions = std::vector<Asked>;

struct Asks {
  std::map<std::string, Asked> orders;
  std::map<std::string, Versions> files;
  std::set<std::string> prefixes;
  std::int64_t first_ns = std::numeric_limits<std::int64_t>::max(), last_ns = 0;

  bool is_ours(std::string_view name) const {
    return std::any_of(prefixes.begin(), prefixes.end(),
                       [&](const auto& prefix) { return name.starts_with(prefix); });
  }
};

bool is_order(OpKind kind) {
  return kind == OpKind::order || kind == OpKind::db_order;
}

void fold_outcome(Asks& asks, const Record& record) {
  if (is_order(record.kind)) {
    if (const auto at = asks.orders.find(record.key); at != asks.orders.end()) {
      at->second.outcome = record.type;
      at->second.id = record.id;
    }
  } else if (record.kind == OpKind::upload) {
    for (auto& version : asks.files[record.key]) {
      if (version.attempt.op == record.op) version.outcome = record.type;
    }
  }
}

Asks fold(const std::vector<std::vector<Record>>& ledgers) {
  Asks asks;
  for (const auto& ledger : ledgers) {
    for (const auto& record : ledger) {
      asks.first_ns = std::min(asks.first_ns, record.boot_ns);
      asks.last_ns = std::max(asks.last_ns, record.boot_ns);
      if (record.type == RecordType::start) {
        asks.prefixes.insert(record.prefix);
      } else if (record.type == RecordType::attempted) {
        if (is_order(record.kind)) asks.orders[record.key] = Asked{record, RecordType::unknown, 0};
        if (record.kind == OpKind::upload)
          asks.files[record.key].push_back(Asked{record, RecordType::unknown, 0});
      } else if (record.type != RecordType::end) {
        fold_outcome(asks, record);
      }
    }
  }
  return asks;
}

class Judge {
 public:
  Judge(const Evidence& evidence, const Terms& terms)
      : evidence_(evidence), terms_(terms), asks_(fold(evidence.ledgers)) {}

  Judgement run() {
    judge_ledgers();
    judge_rows();
    judge_files();
    judge_readers();
    judge_writers();
    judge_owners();
    take_mail();
    if (evidence_.singletons_asked) judge_singletons();
    const bool broken = out_.lost > 0 || out_.doubled > 0 || out_.unasked > 0 || out_.missed > 0 || out_.two_owners_ms > 0 ||
                        out_.two_writers_ms > 0 || out_.singletons.overlaps_ms > 0 || out_.singletons.out_of_place > 0 ||
                        out_.mail.broken();
    out_.verdict = broken ? Verdict::fail : out_.unknowns.empty() ? Verdict::pass : Verdict::unknown;
    return std::move(out_);
  }

 private:
  void complain(std::int64_t& count, std::string detail) {
    ++count;
    if (out_.details.size() < kMostDetails) out_.details.push_back(std::move(detail));
  }
  void doubt(std::string why) { out_.unknowns.push_back(std::move(why)); }

  // Clients read what was acknowledged before, and nothing that is being replaced: a 404, or an answer with other
  // bytes, is a miss, whichever side gave it. An answer that says that it cannot be known (5xx) is none.
  void judge_readers() {
    for (const auto& ledger : evidence_.ledgers) {
      for (const auto& record : ledger) {
        const bool reads = record.kind == OpKind::file_read || record.kind == OpKind::static_read;
        if (!reads || record.type != RecordType::failed) continue;
        if (record.status == 404) complain(out_.missed, fmt::format("file {}: {} has it not", record.key, record.host));
        if (record.status == 200) complain(out_.missed, fmt::format("file {}: {} gave other bytes", record.key, record.host));
      }
    }
  }

  void judge_singletons() {
    const bool on_new = terms_.final_side == Side::new_host;
    const auto& database = on_new ? evidence_.new_database : evidence_.old_database;
    if (!evidence_.old_runs || !evidence_.new_runs) return doubt("the log of what must never run twice is missing on a side");
    out_.singletons = judge_instances(*evidence_.old_runs, *evidence_.new_runs, on_new);
    for (auto& detail : out_.singletons.complaints) {
      if (out_.details.size() < kMostDetails) out_.details.push_back(detail);
    }
    if (out_.singletons.runs == 0) return doubt("what must never run twice did not run at all");
    if (!database) return;
    std::set<std::int64_t> there;
    for (const auto& row : database->runs) there.insert(row.n);
    std::set<std::int64_t> taken;
    for (const auto n : out_.singletons.acknowledged) {
      if (!there.contains(n)) complain(out_.lost, fmt::format("run {} was acknowledged and is not there", n));
      if (!taken.insert(n).second) complain(out_.doubled, fmt::format("run {} was acknowledged twice", n));
    }
  }

  void judge_ledgers() {
    std::vector<Record> all;
    int lane = 0;
    for (auto ledger : evidence_.ledgers) {
      // Lanes of two runs are different users.
      int most = 0;
      for (auto& record : ledger) most = std::max(most, record.lane + 1), record.lane += lane;
      lane += most;
      all.insert(all.end(), ledger.begin(), ledger.end());
    }
    out_.services = summarise(all);
    if (evidence_.ledgers.empty()) doubt("there is no ledger");
    for (const auto& ledger : evidence_.ledgers) {
      if (evidence_.testimony && !ledger.empty() && ledger.front().boot_id != evidence_.testimony->boot_id) {
        doubt("the witness and the ledger are not of one boot of the kernel: their times cannot be compared");
      }
    }
  }

  void take_mail() {
    out_.mail = judge_mail(evidence_.ledgers, evidence_.mail);
    out_.lost += out_.mail.lost;
    out_.doubled += out_.mail.doubled;
    for (const auto& detail : out_.mail.details) {
      if (out_.details.size() < kMostDetails) out_.details.push_back(detail);
    }
    for (const auto& unknown : out_.mail.unknowns) doubt(unknown);
  }

  void judge_rows() {
    const auto& ours = terms_.final_side == Side::new_host ? evidence_.new_database : evidence_.old_database;
    const auto& other = terms_.final_side == Side::new_host ? evidence_.old_database : evidence_.new_database;
    for (const auto& [key, asked] : asks_.orders)
      out_.acknowledged_rows += asked.outcome == RecordType::acknowledged;
    if (!ours) return doubt("there is no collection of the final database");
    if (out_.acknowledged_rows == 0) doubt("no order was acknowledged: there is nothing to look for");
    std::map<std::string, const OrderRow*> by_key;
    std::map<std::int64_t, const OrderRow*> by_id;
    for (const auto& row : ours->rows) {
      const bool key_is_new = by_key.emplace(row.key, &row).second;
      if (!key_is_new) complain(out_.doubled, fmt::format("order {} is there twice", row.key));
      if (!by_id.emplace(row.id, &row).second && key_is_new)
        complain(out_.doubled, fmt::format("two orders have the id {}", row.id));
    }
    for (const auto& [key, asked] : asks_.orders) {
      const auto at = by_key.find(key);
      judge_row(asked, at == by_key.end() ? nullptr : at->second);
    }
    for (const auto& [key, row] : by_key) {
      if (asks_.is_ours(key) && !asks_.orders.contains(key))
        complain(out_.unasked, fmt::format("nobody asked for order {}", key));
    }
    if (other) judge_standing_rows(by_key, other->rows);
  }

  void judge_row(const Asked& asked, const OrderRow* row) {
    const auto& wanted = asked.attempt;
    if (row == nullptr) {
      if (asked.outcome == RecordType::acknowledged)
        complain(out_.lost, fmt::format("order {} was acknowledged and is not there", wanted.key));
      return;
    }
    if (asked.outcome == RecordType::failed)
      return complain(out_.unasked, fmt::format("order {} was turned down and is there", wanted.key));
    if (row->customer != wanted.customer || row->amount != wanted.amount || row->items != wanted.items) {
      return complain(out_.lost, fmt::format("order {} has other content than was asked for", wanted.key));
    }
    if (asked.id != 0 && row->id != asked.id) {
      return complain(out_.lost, fmt::format("order {} has the id {}; its client was told {}", wanted.key,
                                             row->id, asked.id));
    }
    if (row->invoices == 0) complain(out_.lost, fmt::format("order {} has lost its invoice", wanted.key));
    if (row->invoices > 1)
      complain(out_.doubled, fmt::format("order {} has {} invoices", wanted.key, row->invoices));
  }

  // What was there before the clients came: in both databases alike.
  void judge_standing_rows(const std::map<std::string, const OrderRow*>& by_key,
                           const std::vector<OrderRow>& other) {
    for (const auto& row : other) {
      if (asks_.is_ours(row.key)) continue;
      const auto at = by_key.find(row.key);
      if (at == by_key.end()) {
        complain(out_.lost, fmt::format("order {} stands in the other database only", row.key));
      } else if (*at->second != row) {
        complain(out_.lost, fmt::format("order {} differs between the databases", row.key));
      }
    }
  }

  void judge_files() {
    const auto& ours = terms_.final_side == Side::new_host ? evidence_.new_files : evidence_.old_files;
    const auto& other = terms_.final_side == Side::new_host ? evidence_.old_files : evidence_.new_files;
    for (const auto& [name, versions] : asks_.files) {
      out_.acknowledged_files += std::any_of(versions.begin(), versions.end(), [](const auto& v) {
        return v.outcome == RecordType::acknowledged;
      });
    }
    if (!ours) return doubt("there is no collection of the final files");
    if (out_.acknowledged_files == 0) doubt("no upload was acknowledged: there is nothing to look for");
    std::map<std::string, const FileEntry*> by_path;
    for (const auto& file : *ours) by_path.emplace(file.path, &file);
    for (const auto& [name, versions] : asks_.files) {
      const auto at = by_path.find(terms_.uploads + name);
      judge_file(name, versions, at == by_path.end() ? nullptr : at->second);
    }
    for (const auto& [path, file] : by_path) {
      if (!path.starts_with(terms_.uploads)) continue;
      const auto name = path.substr(terms_.uploads.size());
      if (asks_.is_ours(name) && !asks_.files.contains(name))
        complain(out_.unasked, fmt::format("nobody asked for file {}", printable(path)));
    }
    if (other) judge_standing_files(by_path, *other);
  }

  void judge_file(const std::string& name, const Versions& versions, const FileEntry* file) {
    // The last acknowledged version, or one asked for after it that may have come through.
    std::set<std::string> allowed;
    bool must_be_there = false;
    for (const auto& version : versions) {
      if (version.outcome == RecordType::acknowledged) {
        allowed = {version.attempt.sha256};
        must_be_there = true;
      } else if (version.outcome == RecordType::unknown) {
        allowed.insert(version.attempt.sha256);
      }
    }
    if (file == nullptr) {
      if (must_be_there) complain(out_.lost, fmt::format("file {} was acknowledged and is not there", name));
    } else if (allowed.empty()) {
      complain(out_.unasked, fmt::format("file {} was turned down and is there", name));
    } else if (!allowed.contains(file->sha256)) {
      complain(out_.lost, fmt::format("file {} has other content than was asked for", name));
    }
  }

  void judge_standing_files(const std::map<std::string, const FileEntry*>& by_path,
                            const std::vector<FileEntry>& other) {
    for (const auto& file : other) {
      if (file.path.starts_with(terms_.uploads) && asks_.is_ours(file.path.substr(terms_.uploads.size())))
        continue;
      const auto at = by_path.find(file.path);
      if (at == by_path.end()) {
        complain(out_.lost, fmt::format("file {} stands on the other host only", printable(file.path)));
      } else if (at->second->sha256 != file.sha256) {
        complain(out_.lost, fmt::format("file {} differs between the hosts", printable(file.path)));
      }
    }
  }

  // Acts of writing: commits of local origin.
  void judge_writers() {
    const auto& o = evidence_.old_database;
    const auto& n = evidence_.new_database;
    if (o && !n && terms_.final_side == Side::old_host && o->commit_timestamps) return judge_writers_after_way_back(*o);
    if (!o || !n) return doubt("without both databases' collections it is not known who wrote when");
    if (!o->commit_timestamps || !n->commit_timestamps) {
      return doubt("track_commit_timestamp is off: it is not known who wrote when");
    }
    if (o->system == n->system && o->commits == n->commits && !o->commits.empty())
      doubt("both databases' collections are of one and the same cluster");
    std::vector<Act> acts;
    std::set<Commit> seen;
    for (const auto& commit : o->commits) {
      if (commit.origin == 0) acts.push_back(Act{commit.at_us, 0});
      seen.insert(commit);
    }
    for (const auto& commit : n->commits) {
      // A cluster that began as old's copy has old's history, transaction by transaction.
      if (commit.origin == 0 && !seen.contains(commit)) acts.push_back(Act{commit.at_us, 1});
    }
    if (acts.empty()) doubt("no commit of local origin was found in either database");
    judge_turns(std::move(acts));
  }

  // The way back has removed new's database. What clients wrote there has come to old through replication, and with
  // it PostgreSQL keeps the time at which it was committed on new, not when it arrived.
  void judge_writers_after_way_back(const DatabaseCollection& old_database) {
    std::vector<Act> acts;
    for (const auto& commit : old_database.commits) acts.push_back(Act{commit.at_us, commit.origin == 0 ? 0 : 1});
    if (acts.empty()) doubt("no commit was found in old's database");
    judge_turns(std::move(acts));
  }

  void judge_turns(std::vector<Act> acts) {
    std::stable_sort(acts.begin(), acts.end(), [](const auto& a, const auto& b) { return a.at < b.at; });
    for (const auto& overlap : find_overlaps(acts, terms_.handovers, 0)) {
      const auto ms = std::max<std::int64_t>(1, (overlap.to - overlap.from + 999) / 1000);
      std::int64_t count = 0;
      complain(count, fmt::format("two writers for {} ms: {} commits on {} out of turn", ms, overlap.acts,
                                  overlap.who == 0 ? "old" : "new"));
      out_.two_writers_ms += ms;
    }
  }

  void judge_owners() {
    if (!evidence_.testimony) return doubt("there is no witness of the addresses");
    const auto& testimony = *evidence_.testimony;
    if (auto gap = gap_in(testimony, asks_.first_ns, asks_.last_ns, terms_.longest_gap_ns); !gap.empty())
      doubt(std::move(gap));
    if (testimony.claims.empty()) doubt("the witness saw no claim of any address");
    std::map<std::string, std::vector<const TimedClaim*>> by_address;
    for (const auto& claim : testimony.claims) by_address[claim.claim.address].push_back(&claim);
    for (const auto& [address, claims] : by_address) judge_address(address, claims);
    judge_answers(testimony);
  }

  void judge_address(const std::string& address, const std::vector<const TimedClaim*>& claims) {
    auto& figures = out_.addresses[address];
    std::vector<Act> acts;
    for (const auto* claim : claims) {
      auto at = std::find(figures.owners.begin(), figures.owners.end(), claim->claim.mac);
      if (at == figures.owners.end()) at = figures.owners.insert(at, claim->claim.mac);
      if (!acts.empty())
        figures.longest_silence_ms =
            std::max(figures.longest_silence_ms, (claim->at_ns - acts.back().at) / 1000000);
      acts.push_back(Act{claim->at_ns, static_cast<int>(at - figures.owners.begin())});
    }
    figures.claims = static_cast<std::int64_t>(claims.size());
    for (const auto& overlap : find_overlaps(acts, terms_.handovers)) {
      doubly_owned_[address].emplace_back(overlap.from, overlap.to);
      two_owners(address, figures.owners[static_cast<std::size_t>(overlap.who)], overlap.to - overlap.from);
    }
  }

  void two_owners(const std::string& address, const std::string& mac, std::int64_t ns) {
    const auto ms = std::max<std::int64_t>(1, (ns + 999999) / 1000000);
    std::int64_t count = 0;
    complain(count, fmt::format("two owners of {} for {} ms: {} out of turn", address, ms, mac));
    out_.two_owners_ms += ms;
  }

  // Two answers to one question are two owners, even if it was asked once only: a host that takes an address
  // over does not answer what was asked before. It may tell routers by itself, with a reply that nobody asked for:
  // that follows its announcement, and is none of the answers.
  void judge_answers(const Testimony& testimony) {
    std::map<std::pair<std::string, std::string>, std::vector<const TimedClaim*>>
        answers;  // (address, asker)
    std::map<std::pair<std::string, std::string>, std::int64_t> announced;  // (address, claimant) -> when last
    std::size_t next = 0;
    for (const auto& claim : testimony.claims) {
      const bool told_all = claim.claim.how == "arp-announce" || (claim.claim.how == "nd-advert" && claim.claim.to.empty());
      if (told_all) announced[{claim.claim.address, claim.claim.mac}] = claim.at_ns;
      for (; next < testimony.questions.size() && testimony.questions[next].at_ns <= claim.at_ns; ++next) {
        const auto& question = testimony.questions[next].question;
        answers[{question.address, question.mac}].clear();
      }
      if (claim.claim.to.empty()) continue;
      auto& given = answers[{claim.claim.address, claim.claim.to}];
      for (const auto* before : given) {
        if (before->claim.mac == claim.claim.mac) continue;
        const auto told = announced.find({claim.claim.address, claim.claim.mac});
        if (told != announced.end() && told->second > before->at_ns) break;
        if (!counted(claim.claim.address, before->at_ns)) {
          two_owners(claim.claim.address, claim.claim.mac, claim.at_ns - before->at_ns);
        }
        break;
      }
      given.push_back(&claim);
    }
  }

  bool counted(const std::string& address, std::int64_t at_ns) const {
    const auto spans = doubly_owned_.find(address);
    if (spans == doubly_owned_.end()) return false;
    return std::any_of(spans->second.begin(), spans->second.end(),
                       [&](const auto& span) { return span.first <= at_ns && at_ns <= span.second; });
  }

  const Evidence& evidence_;
  const Terms& terms_;
  const Asks asks_;
  std::map<std::string, std::vector<std::pair<std::int64_t, std::int64_t>>> doubly_owned_;  // counted so far
  Judgement out_;
};

}  // namespace

std::string_view to_string(Verdict verdict) {
  return verdict == Verdict::pass ? "pass" : verdict == Verdict::fail ? "fail" : "unknown";
}

Judgement judge(const Evidence& evidence, const Terms& terms) {
  return Judge(evidence, terms).run();
}

Json to_json(const Judgement& judgement) {
  Json addresses = Json::object();
  for (const auto& [address, figures] : judgement.addresses) {
    addresses[address] = Json{{"owners", figures.owners},
                              {"claims", figures.claims},
                              {"longest_silence_ms", figures.longest_silence_ms}};
  }
  Json acknowledged{{"rows", judgement.acknowledged_rows}, {"files", judgement.acknowledged_files}};
  if (judgement.mail.used) {
    acknowledged["messages"] = judgement.mail.acknowledged_messages;
    acknowledged["flags"] = judgement.mail.acknowledged_flags;
  }
  Json out{
      {"schema", "midstream.lab-check/1"},
      {"verdict", to_string(judgement.verdict)},
      {"acknowledged", acknowledged},
      {"lost", judgement.lost},
      {"doubled", judgement.doubled},
      {"unasked", judgement.unasked},
      {"missed", judgement.missed},
      {"two_owners_ms", judgement.two_owners_ms},
      {"two_writers_ms", judgement.two_writers_ms},
      {"singletons", to_json(judgement.singletons)},
      {"services", to_json(judgement.services)},
      {"addresses", addresses},
      {"details", judgement.details},
      {"unknowns", judgement.unknowns}};
  if (judgement.mail.used) out["mail"] = to_json(judgement.mail);
  return out;
}

}  // namespace midstream::lab
