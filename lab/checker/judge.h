// The judge: it knows the promises and the evidence, and nothing of how the move was made. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "lab/checker/collection.h"
#include "lab/checker/mail_judge.h"
#include "lab/checker/singletons.h"
#include "lab/checker/testimony.h"
#include "lab/workload/record.h"

namespace midstream::lab {

enum class Verdict { pass, fail, unknown };
std::string_view to_string(Verdict verdict);

enum class Side { old_host, new_host };

struct Evidence {
  std::vector<std::vector<Record>> ledgers;  // one a run
  // What is missing makes the verdict unknown.
  std::optional<Testimony> testimony;
  std::optional<DatabaseCollection> old_database, new_database;
  std::optional<std::vector<FileEntry>> old_files, new_files;
  // What must never run twice, by side; judged where it is asked for.
  bool singletons_asked = false;
  std::optional<std::vector<Instance>> old_runs, new_runs;
  MailEvidence mail;
};

struct Terms {
  Side final_side = Side::new_host;
  // How often a database or an address may have changed hands: 1 if it ended on new, 2 if it went there and
  // back.
  std::size_t handovers = 1;
  std::string uploads = "uploads/";  // where uploads are, in the files' collections
  std::int64_t longest_gap_ns = 3'000'000'000;
};

struct AddressFigures {
  std::vector<std::string> owners;  // in the order of their first claim
  std::int64_t claims = 0;
  std::int64_t longest_silence_ms = 0;  // nobody claimed it: how long nobody had it, where the witness asked
};

struct Judgement {
  Verdict verdict = Verdict::unknown;
  std::int64_t acknowledged_rows = 0, acknowledged_files = 0;
  std::int64_t lost =
      0;  // acknowledged, or there before the clients came, and not there, or with other content
  std::int64_t doubled = 0;  // there more than once
  std::int64_t unasked = 0;  // there, but nobody asked for it, or it certainly was turned down
  std::int64_t missed = 0;   // a reader was told that an acknowledged file is not there, or got other bytes
  std::int64_t two_owners_ms = 0, two_writers_ms = 0;  // rounded up: never 0 where there was any
  MailJudgement mail;  // its lost and doubled are in those above
  std::map<std::string, AddressFigures> addresses;
  SingletonFigures singletons;
  std::map<std::string, ServiceFigures> services;
  std::vector<std::string> details;   // what is wrong, the first 20
  std::vector<std::string> unknowns;  // why it cannot be known
};

// fail where a promise was broken; unknown where none was but evidence is missing, broken off, or empty; else
// pass.
Judgement judge(const Evidence& evidence, const Terms& terms);
Json to_json(const Judgement& judgement);

}  // namespace midstream::lab
