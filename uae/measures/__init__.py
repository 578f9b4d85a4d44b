"""Pure figures: metrics, statistics, ranking, fusion. They know no stage and no model."""
