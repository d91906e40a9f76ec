drop table noise, verdict, baseline, run_case, run, dataset_case, dataset;
drop function
    refuse_other_dataset, refuse_other_case, keep_cases_of_runs, begin_run, keep_run,
    keep_baseline_of_run, keep_case_results, set_baseline, keep_baselines;
