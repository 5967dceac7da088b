"""What an evaluation must never get wrong, one requirement a heading: the tests that hold it, gathered under its name.

R1 one command, cards; R2 two protocols; R3 reference and novel views; R4 CLIP proved; R5 LPIPS guarded; R6 PSNR guarded;
R7 complete denominators; R8 seeds and determinism; R27 partial results. Each was seen to fail with its guard taken away.
"""

# the tests live where their subject is tested; pytest runs them here under the requirement's name
from test_dag import finished, tree  # noqa: F401
from test_dag import test_failed_cell_stands_in_the_table_and_heals as test_r27_one_failure_leaves_the_others  # noqa: F401
from test_metrics import clip_copy, clip_folder, disc, mini  # noqa: F401
from test_metrics import test_bytes_and_floats_score_alike as test_r6_uint8_equals_float  # noqa: F401
from test_metrics import test_canary_hears_another_activation as test_r4_wrong_activation_is_detected  # noqa: F401
from test_metrics import test_canary_hears_another_range_and_random_weights as test_r4_random_weights_are_detected  # noqa: F401
from test_metrics import test_clip_without_weights_is_a_gap_and_never_random as test_r4_absent_weights_are_a_gap  # noqa: F401
from test_metrics import test_identical_pictures_reach_the_cap_and_no_more as test_r6_identical_pictures_reach_100  # noqa: F401
from test_metrics import test_perceptual_metric_wants_declared_range as test_r5_wrong_range_raises  # noqa: F401
from test_protocols import result  # noqa: F401
from test_protocols import test_as_published_punishes_the_perfect_render_of_a_soft_edge as test_r2_as_published_is_low  # noqa: F401
from test_protocols import test_corrected_sees_one_object_in_both_conventions as test_r2_corrected_is_one_target  # noqa: F401
from test_protocols import test_every_card_field_is_required as test_r1_every_card_field_is_required  # noqa: F401
from test_protocols import test_novel_value_with_a_reference_image_does_not_fit_the_schema as test_r3_schema  # noqa: F401
from test_protocols import test_novel_view_from_the_reference_pose_does_not_count as test_r3_poses  # noqa: F401
from test_protocols import test_stored_result_gives_stored_numbers as test_r1_stored_result_gives_stored_numbers  # noqa: F401
from test_reconstruct import coarse, example  # noqa: F401
from test_reconstruct import test_two_runs_of_both_stages_are_the_same_bytes as test_r8_strict_is_the_same_bytes  # noqa: F401
from test_tables import run  # noqa: F401
from test_tables import test_a_deleted_result_is_counted_and_named as test_r7_deleted_result_is_counted_and_named  # noqa: F401
from test_tables import test_cards_of_the_columns_say_over_what as test_r8_determinism_is_recorded  # noqa: F401
from test_tables import test_mean_over_seeds_of_means_over_examples as test_r8_spread_is_over_seeds  # noqa: F401
