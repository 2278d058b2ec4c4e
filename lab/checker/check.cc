// lab-check: the independent checker. `collect-db` and `collect-files` run on the hosts, `judge` anywhere.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iostream>

#include "base/text.h"
#include "lab/checker/collect.h"
#include "lab/checker/judge.h"
#include "lab/checker/mail_collection.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream::lab {
namespace {

constexpr std::size_t kMostBytes = std::size_t{2} << 30;

struct JudgeOptions {
  std::string ledger, witness, old_db, new_db, old_files, new_files, old_runs, new_runs, mail, sink, final_side, json;
  std::string mail_source;
  std::string uploads = "uploads/";
  int handovers = -1;
};

template <class T>
Result<> load(const std::string& path, Result<T> (*parse)(std::string_view), std::optional<T>& into) {
  if (path.empty()) return {};
  auto parsed = parse(TRY(read_file(path, kMostBytes)));
  if (!parsed) return with_context(parsed.error(), path);
  into = *std::move(parsed);
  return {};
}

Result<> load_ledgers(const std::filesystem::path& directory, std::vector<std::vector<Record>>& into) {
  std::error_code error;
  std::vector<std::filesystem::path> paths;
  for (auto at = std::filesystem::directory_iterator(directory, error);
       !error && at != std::filesystem::directory_iterator(); at.increment(error)) {
    const std::string name = at->path().filename();
    if (name.starts_with("ledger-") && name.ends_with(".jsonl")) paths.push_back(at->path());
  }
  if (error) return errno_failure(fmt::format("{} cannot be read", directory.string()), error.value());
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    auto ledger = parse_ledger(TRY(read_file(path, kMostBytes)));
    if (!ledger) return with_context(ledger.error(), path.string());
    if (!ledger->empty()) into.push_back(*std::move(ledger));
  }
  return {};
}

Result<Verdict> run_judge(const JudgeOptions& options) {
  Evidence evidence;
  CHECK_OK(load_ledgers(options.ledger, evidence.ledgers));
  CHECK_OK(load(options.witness, &parse_testimony, evidence.testimony));
  CHECK_OK(load(options.old_db, &parse_database, evidence.old_database));
  CHECK_OK(load(options.new_db, &parse_database, evidence.new_database));
  CHECK_OK(load(options.old_files, &parse_files, evidence.old_files));
  CHECK_OK(load(options.new_files, &parse_files, evidence.new_files));
  evidence.singletons_asked = !options.old_runs.empty() || !options.new_runs.empty();
  CHECK_OK(load(options.old_runs, &parse_instances, evidence.old_runs));
  CHECK_OK(load(options.new_runs, &parse_instances, evidence.new_runs));
  CHECK_OK(load(options.mail, &parse_mail, evidence.mail.mailboxes));
  CHECK_OK(load(options.sink, &parse_sink, evidence.mail.sink));
  evidence.mail.source = options.mail_source;
  Terms terms;
  terms.final_side = options.final_side == "new" ? Side::new_host : Side::old_host;
  terms.handovers = options.handovers >= 0               ? static_cast<std::size_t>(options.handovers)
                    : terms.final_side == Side::new_host ? 1
                                                         : 2;
  terms.uploads = options.uploads;
  const auto judgement = judge(evidence, terms);
  const auto text = to_json(judgement).dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
  if (options.json.empty()) {
    std::cout << text << std::flush;
  } else {
    CHECK_OK(write_file_durably(options.json, text, 0644));
  }
  return judgement.verdict;
}

int exit_code(const Result<Verdict>& verdict) {
  if (verdict) return *verdict == Verdict::pass ? 0 : *verdict == Verdict::fail ? 1 : 2;
  log_line(LogLevel::error, "check", verdict.error().text());
  return 3;
}

}  // namespace
}  // namespace midstream::lab

int main(int argc, char** argv) {
  using namespace midstream;
  using namespace midstream::lab;
  CLI::App app("Compares what clients were told with what is there.", "lab-check");
  app.footer("Exit codes: 0 pass, 1 fail, 2 unknown, 3 the check could not be made.");
  app.require_subcommand(1);

  std::string conninfo, directory;
  auto* collect_db = app.add_subcommand("collect-db", "prints what is in a database");
  collect_db->add_option("--conninfo", conninfo, "libpq connection string, without a password")->required();
  auto* collect_tree = app.add_subcommand("collect-files", "prints what is in a directory");
  collect_tree->add_option("--dir", directory, "the shop's --files directory")->required();

  auto* collect_mailboxes = app.add_subcommand("collect-mail", "prints what is in the mailboxes of a domain");
  collect_mailboxes->add_option("--dir", directory, "the domain's directory, USER/Maildir below it")->required();

  JudgeOptions options;
  auto* judge_command = app.add_subcommand("judge", "judges a ledger, a witness and the collections");
  judge_command->add_option("--ledger", options.ledger, "directory of the clients' ledgers")->required();
  judge_command->add_option("--witness", options.witness, "file of the witness");
  judge_command->add_option("--old-db", options.old_db, "collection of old's database");
  judge_command->add_option("--new-db", options.new_db, "collection of new's database");
  judge_command->add_option("--old-files", options.old_files, "collection of old's files");
  judge_command->add_option("--new-files", options.new_files, "collection of new's files");
  judge_command->add_option("--old-runs", options.old_runs, "log on old of what must never run twice");
  judge_command->add_option("--new-runs", options.new_runs, "the same on new");
  judge_command->add_option("--mail", options.mail, "collection of the final side's mailboxes");
  judge_command->add_option("--sink", options.sink, "what the rest of the world got");
  judge_command->add_option("--mail-source", options.mail_source, "the one address that mail may come from");
  judge_command->add_option("--final", options.final_side, "who owns all of it in the end")
      ->required()
      ->check(CLI::IsMember({"new", "old"}));
  judge_command->add_option("--handovers", options.handovers,
                            "how often things may have changed hands; 1 for new, 2 for old");
  judge_command->add_option("--uploads", options.uploads, "where uploads are below the files' directory");
  judge_command->add_option("--json", options.json, "file for the judgement, instead of stdout");
  CLI11_PARSE(app, argc, argv);

  if (judge_command->parsed()) return exit_code(run_judge(options));
  const auto collected = collect_db->parsed()          ? collect_database(conninfo, std::cout)
                         : collect_mailboxes->parsed() ? collect_mail(directory, std::cout)
                                                       : collect_files(directory, std::cout);
  std::cout.flush();
  if (collected && std::cout) return 0;
  log_line(LogLevel::error, "check", collected ? "stdout cannot be written" : collected.error().text());
  return 3;
}
