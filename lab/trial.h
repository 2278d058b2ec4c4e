// One trial: a lab with clients and witnesses at work, the operator's commands given in it, and the checker's
// judgement at the end. The demo is a trial; so is every test of the whole.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "lab/lab.h"

namespace midstream::lab {

struct TrialSpec {
  std::string scenario = "demo";
  bool fast = false;
  double rate = 60;                    // client operations a second
  std::filesystem::path directory;     // of the lab; what is kept stands in directory/../<report>
  std::filesystem::path programs;
  std::function<void(std::string_view)> tell;  // progress, for a person
  bool mail = false;  // mail is a service of the move, and has users
  bool seeded = false;  // the database goes by the seeded road
  Millis far{0};        // how far the operator's host is from all others, there and back
};

// `midstream ...` running on the operator's host.
class Command {
 public:
  // Runs it to its end; each line that it prints goes to `line`, which may stop listening by returning false
  // (the command goes on). Returns the exit code.
  Result<int> wait(const std::function<bool(std::string_view)>& line, Deadline deadline);
  // Listens until `mark(line)`, and leaves it running; refused where it ends before.
  Result<> wait_for_line(const std::function<bool(std::string_view)>& mark, Deadline deadline);
  // kill -9, at once.
  void kill() { child_.kill(); }

 private:
  friend class Trial;
  explicit Command(Child child) : child_(std::move(child)) {}
  Child child_;
  Result<std::optional<std::string>> next_line(Deadline deadline);
  std::string pending_;
};

class Trial {
 public:
  // Lab up, witness and clients started, and the clients seen to be served.
  static Result<Trial> begin(const TrialSpec& spec);

  Lab& lab() { return lab_; }
  const Lab& lab() const { return lab_; }
  // Starts `midstream ARGS... /root/move.yaml` on the operator's host.
  Result<Command> midstream(const std::vector<std::string>& arguments);
  // The same to its end, its lines told. The exit code.
  Result<int> run(const std::vector<std::string>& arguments, Millis span);

  // Ends clients and witness, collects both sides, judges. `final_side` is "new" or "old"; `handovers` how often
  // things may have changed hands. The checker's JSON, with the clients' own figures under "clients".
  Result<Json> judge(const std::string& final_side, int handovers);
  // Judges once more, with `content` in the place of what `option` of `lab-check judge` named.
  Result<Json> judge_again(const std::string& option, const std::string& content);
  // `midstream report` with the checker's part added, written to `directory`/report.json and report.md.
  Result<Json> report(const Json& checker, const std::filesystem::path& directory);
  Result<> end() { return lab_.down(); }

 private:
  Trial(TrialSpec spec, Lab lab) : spec_(std::move(spec)), lab_(std::move(lab)) {}
  Result<> move_away();
  Result<> start_witness();
  Result<> start_clients();
  Result<> await_clients(Deadline deadline);
  // Mail that was accepted is on its way until no queue has it.
  Result<> await_queues(Deadline deadline);
  Result<> collect_mail(const std::string& final_side, std::vector<std::string>& argv);
  Result<> open_for_reading(const std::string& host);
  Result<std::string> collect(const std::string& host, const std::vector<std::string>& argv, const std::string& name);

  TrialSpec spec_;
  Lab lab_;
  std::optional<Child> relay_;
  std::optional<Child> witness_;
  std::optional<Child> clients_;
  std::vector<std::string> judging_;  // the command of the last judgement
};

// The whole move, for ./demo and the tests: run, finish, judge, report; prints the table. 0 only if the checker passes.
int run_demo(const TrialSpec& spec, const std::filesystem::path& report_directory, bool roll_back);

}  // namespace midstream::lab
